"""Text to tokens: train a BPE tokenizer, and pack documents into contexts of one fixed length.

Packing is deterministic: documents in order, each followed by one end-of-text token, cut into
contexts of T tokens; the unfinished tail is dropped. Held-out documents go to an index of their own.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from monosem.text.documents import Document, is_heldout

END_OF_TEXT = "<|endoftext|>"
CHUNK = 256
"""Documents tokenised at a time; bounds memory, changes nothing else."""


@dataclass(frozen=True)
class TokenIndex:
    """Packed contexts and where each document begins.

    tokens_NT    token ids, uint16 [contexts, context_length]
    doc_starts   position of each document's first token in the concatenation, int64 [documents]
    doc_domains  index into `domains` for each document, int32 [documents]
    domains      the distinct domain labels
    """

    tokens_NT: np.ndarray
    doc_starts: np.ndarray
    doc_domains: np.ndarray
    domains: tuple[str, ...]

    def document_of(self, context: int, token: int) -> int:
        """Number of the document that holds `token` of `context`."""
        position = context * self.tokens_NT.shape[1] + token
        return int(np.searchsorted(self.doc_starts, position, side="right")) - 1


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE tokenizer: digits split one by one, any UTF-8 text encodes. Token 0 ends a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def pack(
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    context_length: int,
    max_tokens: int,
    heldout_fraction: float,
    on_tokens=lambda n: None,
) -> tuple[TokenIndex, TokenIndex]:
    """Tokenise and pack (train, held out). Reading stops once the train side has `max_tokens` tokens."""
    train, heldout = _Packer(context_length), _Packer(context_length)
    end = tokenizer.token_to_id(END_OF_TEXT)
    for chunk in _chunks(documents):
        encodings = tokenizer.encode_batch([d.text for d in chunk], add_special_tokens=False)
        for document, encoding in zip(chunk, encodings, strict=True):
            side = heldout if is_heldout(document.key, heldout_fraction) else train
            side.add(document.domain, [*encoding.ids, end])
            if train.size >= max_tokens:
                break
        on_tokens(train.size)
        if train.size >= max_tokens:
            break
    return train.finish(), heldout.finish()


def _chunks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    source = iter(documents)
    while chunk := list(islice(source, CHUNK)):
        yield chunk


class _Packer:
    def __init__(self, context_length: int):
        self.context_length = context_length
        self.size = 0
        self.parts: list[np.ndarray] = []
        self.starts: list[int] = []
        self.labels: list[int] = []
        self.domains: dict[str, int] = {}

    def add(self, domain: str, ids: list[int]) -> None:
        self.starts.append(self.size)
        self.labels.append(self.domains.setdefault(domain, len(self.domains)))
        self.parts.append(np.array(ids, dtype=np.uint16))
        self.size += len(ids)

    def finish(self) -> TokenIndex:
        n = self.size // self.context_length
        flat = np.concatenate([*self.parts, np.zeros(0, np.uint16)])[: n * self.context_length]
        return TokenIndex(
            tokens_NT=flat.reshape(n, self.context_length),
            doc_starts=np.array(self.starts, dtype=np.int64),
            doc_domains=np.array(self.labels, dtype=np.int32),
            domains=tuple(self.domains),
        )
