"""Text to tokens: train a BPE tokenizer, and pack documents into contexts of one fixed length.

Packing is deterministic: documents in order, each followed by one end-of-text token, cut into
contexts of T tokens; the unfinished tail is dropped. Held-out documents go to an index of their own.
A document that spells out a special token, such as <|endoftext|>, is given that very token, as tokenizers do it.
Where contexts begin with a token of their own, each holds it and T-1 tokens of the text.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from monosem.errors import InputError
from monosem.text.documents import Document, is_heldout
from monosem.text.packing import Packer

END_OF_TEXT = "<|endoftext|>"
CHUNK = 256
CHUNK_CHARS = 2**20
"""Documents, and characters, tokenised at a time (at least one document); bound memory, change nothing else."""


@dataclass(frozen=True)
class TokenIndex:
    """Packed contexts and where each document begins.

    tokens_NT         token ids, uint16 or int32 [contexts, context_length]
    doc_starts        place of each document's first token in `tokens_NT` read row by row, int64 [documents]
    doc_domains       index into `domains` for each document, int32 [documents]
    domains           the distinct domain labels
    doc_keys_bytes    the documents' keys one after another in UTF-8, uint8; None: not kept
    doc_keys_offsets  where each key begins, and the end of the last, int64 [documents + 1]; None: not kept
    text_from         where a context's text begins: 1 if every context starts with a begin token, else 0
    """

    tokens_NT: np.ndarray
    doc_starts: np.ndarray
    doc_domains: np.ndarray
    domains: tuple[str, ...]
    doc_keys_bytes: np.ndarray | None = None
    doc_keys_offsets: np.ndarray | None = None
    text_from: int = 0

    def document_of(self, contexts: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Number of the document at token positions `tokens` of `contexts`: int64, shapes as broadcast.

        A begin token counts to the document of the token after it.
        """
        place = np.asarray(contexts, np.int64) * self.tokens_NT.shape[1] + np.maximum(tokens, self.text_from)
        return np.searchsorted(self.doc_starts, place, side="right") - 1

    def position_in_document(self, contexts: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """How many tokens of its document stand before it: int64, shapes as broadcast; -1 for a begin token."""
        tokens = np.asarray(tokens)
        start = self.doc_starts[self.document_of(contexts, tokens)]
        width = self.tokens_NT.shape[1]
        first = self._in_text(*np.divmod(start, width))
        return np.where(tokens < self.text_from, -1, self._in_text(np.asarray(contexts, np.int64), tokens) - first)

    def _in_text(self, contexts: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Position in the text alone, without the begin tokens."""
        return contexts * (self.tokens_NT.shape[1] - self.text_from) + tokens - self.text_from

    def key_of(self, document: int) -> str:
        """The name of a document in its source. IndexError if there is none, ValueError if no names were kept."""
        if self.doc_keys_bytes is None or self.doc_keys_offsets is None:
            raise ValueError("this token index was made without document keys")
        if not 0 <= document < len(self.doc_starts):
            raise IndexError(f"document {document} of {len(self.doc_starts)}")
        begin, end = self.doc_keys_offsets[document : document + 2]
        return self.doc_keys_bytes[begin:end].tobytes().decode("utf-8", "surrogatepass")


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
    end_token: str = END_OF_TEXT,
    begin_token: str | None = None,
) -> tuple[TokenIndex, TokenIndex]:
    """Tokenise and pack (train, held out). Reading stops once the train side has `max_tokens` tokens of text.

    `end_token` follows every document; `begin_token`, if given, starts every context. A tokenizer that lacks one
    of them is an InputError. Ids are uint16 where the vocabulary fits, else int32.
    """
    end = _id_of(tokenizer, "end_token", end_token)
    begin = None if begin_token is None else _id_of(tokenizer, "begin_token", begin_token)
    tokenizer = _whole_texts(tokenizer)
    train, heldout = (Packer(context_length, id_dtype(tokenizer), begin) for _ in range(2))
    for chunk in _chunks(documents):
        encodings = tokenizer.encode_batch_fast([d.text for d in chunk], add_special_tokens=False)
        for document, encoding in zip(chunk, encodings, strict=True):
            side = heldout if is_heldout(document.key, heldout_fraction) else train
            side.add(document.key, document.domain, [*encoding.ids, end])
            if train.size >= max_tokens:
                break
        on_tokens(train.size)
        if train.size >= max_tokens:
            break
    first, second = (
        TokenIndex(**side.finish(), domains=tuple(side.domains), text_from=side.text_from) for side in (train, heldout)
    )
    return first, second


def id_dtype(tokenizer: Tokenizer) -> np.dtype:
    """uint16 if every id of the vocabulary fits, else int32."""
    highest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    return np.dtype(np.uint16 if highest < 2**16 else np.int32)


def _id_of(tokenizer: Tokenizer, field: str, token: str) -> int:
    found = tokenizer.token_to_id(token)
    if found is None:
        special = sorted(t.content for t in tokenizer.get_added_tokens_decoder().values())
        raise InputError(
            f"{field}={token!r}: the tokenizer has no such token; its special tokens: {', '.join(special) or 'none'}"
        )
    return found


def _whole_texts(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer without truncation and padding, which some tokenizer files switch on."""
    if tokenizer.truncation is None and tokenizer.padding is None:
        return tokenizer
    tokenizer = Tokenizer.from_str(tokenizer.to_str())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _chunks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    chunk: list[Document] = []
    chars = 0
    for document in documents:
        if chunk and (len(chunk) == CHUNK or chars + len(document.text) > CHUNK_CHARS):
            yield chunk
            chunk, chars = [], 0
        chunk.append(document)
        chars += len(document.text)
    if chunk:
        yield chunk
