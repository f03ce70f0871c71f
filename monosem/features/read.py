"""The tables of a finished feature pass, read where they are: what `monosem.features(uri)` gives."""

from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from monosem.errors import InputError, IntegrityError
from monosem.features import schema
from monosem.features.tables import from_parquet, joined_tables, schema_of
from monosem.store.plain import sha256, unpack_json
from monosem.store.store import open_store


class FeatureTables:
    """pyarrow tables, read when first asked for and checked against the manifest's digests: `features`, `examples`,
    `texts`, `related` (of this run) and `vocab`; `schema` in this package says what their columns are.

    uri   a run's directory in its store, its `features` directory, or that of a sweep's neurons: SWEEP/features/neurons

    InputError if there is no finished pass; IntegrityError where bytes are not those of the manifest.
    """

    def __init__(self, uri: str):
        uri = uri.rstrip("/")
        for place in (uri, f"{uri}/{schema.DIRECTORY}"):
            store = open_store(place)
            if store.exists(schema.MANIFEST):
                found = unpack_json(store.get(schema.MANIFEST), f"{place}/{schema.MANIFEST}")
                if found.get("kind"):
                    self.uri, self.store, self.manifest = place, store, found
                    break
        else:
            if uri.endswith("/runs/neurons"):
                place = uri.removesuffix("/runs/neurons") + f"/{schema.DIRECTORY}/neurons"
                raise InputError(f"{uri}: no run there; the features of a sweep's neurons are at {place}")
            raise InputError(f"{uri}: no features there; make them with: monosem features {uri}")
        up = self.uri.rsplit("/", 3)[0] if found["kind"] == "dictionary" else self.uri.rsplit("/", 2)[0]
        self.sweep = open_store(f"{up}/{schema.DIRECTORY}")

    @cached_property
    def features(self) -> pa.Table:
        return self._table("features")

    @cached_property
    def examples(self) -> pa.Table:
        return self._table("examples")

    @cached_property
    def texts(self) -> pa.Table:
        return self._table("texts")

    @cached_property
    def vocab(self) -> pa.Table:
        return from_parquet(self.sweep.get(schema.VOCAB_FILE))

    @cached_property
    def related(self) -> pa.Table:
        """Empty if the pass was over this run alone."""
        if not self.sweep.exists(schema.RELATED_FILE):
            return schema_of("related").empty_table()
        whole = from_parquet(self.sweep.get(schema.RELATED_FILE))
        return whole.filter(pc.field("run") == self.manifest["run"])

    @cached_property
    def words(self) -> list[str]:
        """Text of each token id."""
        return self.vocab["text"].to_pylist()

    def text(self, tokens: list[int]) -> str:
        """Token ids as they are shown, one after another."""
        return "".join(self.words[t] for t in tokens)

    def of(self, feature: int) -> pa.Table:
        """The examples of one feature."""
        return self.examples.filter(pc.field("feature") == feature)

    def _table(self, name: str) -> pa.Table:
        files = [file for file in self.manifest["files"] if file.startswith(name)]
        return joined_tables([from_parquet(self._checked(file)) for file in files])

    def _checked(self, file: str) -> bytes:
        data = self.store.get(file)
        if sha256(data) != self.manifest["files"][file]:
            raise IntegrityError(f"{self.uri}/{file}: does not match its digest in {schema.MANIFEST}")
        return data

    def __repr__(self) -> str:
        m = self.manifest
        return f"FeatureTables({m['run']}, {m['d_sae']:,} features over {m['tokens']:,} tokens, {self.uri})"
