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
    return frame_prompt(tokenizer, tokenizer.encode(text.rstrip()), max_prompt_tokens)


def frame_prompt(tokenizer: Tokenizer, tokens: Sequence[int], max_prompt_tokens: int) -> list[int]:
    """``encode_prompt`` of a text whose tokens are at hand."""
    if max_prompt_tokens < 2:
        raise ValueError(f"max_prompt_tokens = {max_prompt_tokens} leaves no room for the prompt after its begin token")
    return [tokenizer.begin, *tokens[-(max_prompt_tokens - 1) :]]


def split_demonstration(prompt: str, response: str) -> tuple[str, str]:
    """A prompt and its response as sampling divides them: whitespace between the two belongs to the response.

    A prompt loses the whitespace at its end when it is encoded, so the policy must learn to write it. Whitespace at the
    end of the response is dropped, as it is in documents.
    """
    stripped = prompt.rstrip()
    return stripped, (prompt[len(stripped) :] + response).rstrip()


def frame_response(
    tokenizer: Tokenizer, tokens: Sequence[int], max_response_tokens: int, *, is_cut: bool = False
) -> list[int]:
    """The tokens of a response and ``end``; of one that is too long for both, or was cut, the first tokens alone."""
    if is_cut or len(tokens) >= max_response_tokens:
        return list(tokens[:max_response_tokens])
    return [*tokens, tokenizer.end]


def cut_response(tokens: Sequence[int], end: int) -> list[int]:
    """The response: all tokens up to and including the first ``end``."""
    tokens = list(tokens)
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens
