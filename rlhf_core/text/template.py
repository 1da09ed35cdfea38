"""How a prompt and its response become tokens: the same for pre-training, rewards, policies and serving.

A document of pre-training is ``begin, text, end``. A prompt is the start of such a document, ``begin, text``, and a
response goes on from there up to and including its first ``end``. What is hashed below is this rule, so that a model
trained under another one is refused instead of being fed something it never saw.
"""

import hashlib
from collections.abc import Sequence

from rlhf_core.text.tokenizer import Tokenizer

TEMPLATE = "document = begin text end; prompt = begin + last (max - 1) tokens of right-stripped text; response to end"
TEMPLATE_SHA256 = hashlib.sha256(TEMPLATE.encode()).hexdigest()


def encode_document(tokenizer: Tokenizer, text: str) -> list[int]:
    """``begin``, the text, ``end``."""
    return frame_document(tokenizer, tokenizer.encode(text))


def frame_document(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[int]:
    """``encode_document`` of a text whose tokens are at hand."""
    return [tokenizer.begin, *tokens, tokenizer.end]


def encode_prompt(tokenizer: Tokenizer, text: str, max_prompt_tokens: int) -> list[int]:
    """``begin`` and the last tokens of the text, ``max_prompt_tokens`` at most in all.

    Whitespace at the end is dropped, since words carry the space before them.

    Raises:
        ValueError: ``max_prompt_tokens`` leaves no room for a token of the text.
    """
    if max_prompt_tokens < 2:
        raise ValueError(f"max_prompt_tokens = {max_prompt_tokens} leaves no room for the prompt after its begin token")
    tokens = tokenizer.encode(text.rstrip())
    return [tokenizer.begin, *tokens[-(max_prompt_tokens - 1) :]]


def cut_response(tokens: Sequence[int], end: int) -> list[int]:
    """The response: all tokens up to and including the first ``end``."""
    tokens = list(tokens)
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens
