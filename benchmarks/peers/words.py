"""A tokenizer of numbered words for the trainers that want one; runs in the environments with transformers."""

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from benchmarks.peers.shapes import VOCABULARY

PAD, BEGIN, END = 0, 1, 2


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Of ``VOCABULARY`` words, each its number."""
    tokenizer = Tokenizer(WordLevel({str(number): number for number in range(VOCABULARY)}, unk_token=str(BEGIN)))
    special = {"unk_token": str(BEGIN), "bos_token": str(BEGIN), "pad_token": str(PAD), "eos_token": str(END)}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side="left", **special)
