"""One store against itself, its place, the stores it was made from, and the rows it should have.

Embeddings are read in pieces (`Store.verify`), so that a store may be larger than memory; of the rows only the names
are held, as Arrow columns that DuckDB compares.
"""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.ingest import classes_hash
from stages import (
    ImageProvenance,
    ManifestProvenance,
    ManifestStore,
    PromptStore,
    Provenance,
    TextProvenance,
    UserError,
)
from stages.stores.artifacts import NO_LLM, SPLITS, Store
from stages.stores.provenance import refuse_mixture
from stages.text import counted


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        text: one line that names the file.
        stores: what has to be made again to mend it; empty where no command can.
        sound: what is there is right, and only lacks something that its command adds.
    """

    text: str
    stores: tuple[Store, ...] = ()
    sound: bool = False


def parents(store: Store) -> list[Store]:
    """The stores that a store was made from."""
    if store.name == "manifest":
        return []
    found: list[Store] = [ManifestStore(store.cache, store.dataset)]
    if store.name == "text" and store.partitions["llm"] != NO_LLM:
        found.append(PromptStore(store.cache, store.dataset, store.partitions["llm"]))
    return found


def own_faults(store: Store) -> list[str]:
    """What is wrong with a store taken alone: file, place, schema, content, embeddings, and what its footer tells.

    Reads the whole file, in pieces.
    """
    found = store.verify()
    return found or [f"{store.file}: {what}" for what in _footer_faults(store, store.provenance())]


def chain_faults(store: Store) -> list[str]:
    """Whether a sound store was made from the sound stores that are there now, and has all the rows that follow.

    Raises:
        UserError: a store cannot be read.
    """
    origin = store.provenance()
    for parent in parents(store):
        try:
            refuse_mixture(parent.provenance(), origin)
        except UserError as error:
            return [f"{store.file}: out of date: {error}"]
    check = {"manifest": _manifest, "prompts": _prompts, "text": _text, "images": _images}[store.name]
    return [f"{store.file}: {what}" for what in check(store, origin)]


def lacking(store: Store) -> dict[str, list[str]]:
    """Why images were left out of an image store -> which: `missing`, `unreadable` or `undecodable`."""
    found: dict[str, list[str]] = {}
    origin = store.provenance()
    for image_id, why in (origin.left_out if isinstance(origin, ImageProvenance) else {}).items():
        found.setdefault(why.partition(":")[0], []).append(image_id)
    return found


def encoder_faults(stores: list[Store]) -> list[Fault]:
    """Stores of one encoder name whose weights or preprocessing were not the same."""
    by_encoder: dict[str, dict[str, list[Store]]] = {}
    for store in stores:
        if "encoder" in store.partitions:
            prints = by_encoder.setdefault(store.partitions["encoder"], {})
            prints.setdefault(store.provenance().encoder_fingerprint or "", []).append(store)
    return [
        Fault(
            f"encoder {encoder}: its stores were made with {len(prints)} different weights or preprocessings ("
            + ", ".join(f"{mark[:12]} {made[0].file}" for mark, made in prints.items())
            + "): embed all with one",
            tuple(store for made in prints.values() for store in made),
        )
        for encoder, prints in by_encoder.items()
        if len(prints) > 1
    ]


def _footer_faults(store: Store, origin: Provenance) -> list[str]:
    needed = [parent.name for parent in parents(store) if parent.name == "prompts" or store.name == "images"]
    missing = [name for name in ("classes", *needed) if name not in origin.inputs]
    found = [f"the footer does not say from which {' and '.join(missing)} it was made"] * bool(missing)
    if store.embedded and not (origin.encoder and origin.encoder_fingerprint):
        found.append("the footer does not say with which encoder it was made")
    if store.name == "manifest" and not _class_names(origin):
        found.append("the footer has no list of classes that fits its hash")
    column = {"text": "encoder_name", "images": "encoder_name", "prompts": "llm_name"}.get(store.name)
    if column and not found:
        name = origin.encoder if column == "encoder_name" else origin.llm
        [(others,)] = _ask(f"SELECT count(*) FROM s WHERE {column} IS DISTINCT FROM $name", {"name": name}, s=store)
        found += [f"{others} rows are not of {name!r}, which the footer names"] * bool(others)
    return found


def _manifest(store: Store, origin: Provenance) -> list[str]:
    columns = ["image_id", "class_id", "class_name", "split", "error"]
    s = store.read(columns)
    [(twice, strange)] = _ask(
        "SELECT count(*) - count(DISTINCT image_id), count(*) FILTER (split NOT IN $splits OR split IS NULL) FROM s",
        {"splits": list(SPLITS)}, s=s,
    )  # fmt: skip
    found = _ask(
        "SELECT DISTINCT class_id, class_name FROM s WHERE class_id IS NOT NULL OR class_name IS NOT NULL", s=s
    )
    assert isinstance(origin, ManifestProvenance)
    unknown = set(found) - set(origin.class_names.items())
    if isinstance(store, ManifestStore) and store.is_multi_label:
        several = [class_id for own in store.class_ids().values() for class_id in own or ()]
        unknown |= {(class_id, None) for class_id in several if class_id not in origin.class_names}
    return [
        *[f"{counted(twice, 'image stands', 'images stand')} in it twice"] * bool(twice),
        *[f"{strange} images are of no split ({', '.join(SPLITS)})"] * bool(strange),
        *[f"{len(unknown)} classes of the rows are not in the footer's list"] * bool(unknown),
    ]


def _prompts(store: Store, origin: Provenance) -> list[str]:
    manifest = ManifestStore(store.cache, store.dataset)
    [(twice, silent, nowhere, strange)] = _ask(
        """
        SELECT count(*) - count(DISTINCT prompt_id),
               count(*) FILTER ((kept IS NOT TRUE) = (drop_reason IS NULL) OR (kept AND coalesce(text, '') = '')),
               count(*) FILTER (class_id IS NOT NULL AND class_id NOT IN $classes),
               count(*) FILTER (image_id IS NOT NULL AND image_id NOT IN (SELECT image_id FROM m))
        FROM s
        """,
        {"classes": list(manifest.provenance().class_names)},
        s=store.read(["prompt_id", "class_id", "image_id", "text", "kept", "drop_reason"]), m=manifest,
    )  # fmt: skip
    return [
        *[f"{counted(twice, 'prompt stands', 'prompts stand')} in it twice"] * bool(twice),
        *[f"{silent} rows are dropped without a reason, or kept with one or without a text"] * bool(silent),
        *[f"{nowhere} rows are about classes that the manifest does not have"] * bool(nowhere),
        *[f"{strange} rows are about images that the manifest does not have"] * bool(strange),
    ]


def _text(store: Store, origin: Provenance) -> list[str]:
    s = store.read(["prompt_id", "kind", "class_id", "image_id", "text"])
    [(twice,)] = _ask("SELECT count(*) - count(DISTINCT prompt_id) FROM s", s=s)
    found = [f"{counted(twice, 'sentence stands', 'sentences stand')} in it twice"] * bool(twice)
    if store.partitions["llm"] != NO_LLM:
        p = PromptStore(store.cache, store.dataset, store.partitions["llm"]).read(["prompt_id", "text", "kept"])
        [(missing, extra)] = _ask(
            """
            SELECT count(*) FILTER (s.prompt_id IS NULL), count(*) FILTER (p.prompt_id IS NULL)
            FROM (SELECT * FROM p WHERE kept) p FULL JOIN s ON p.prompt_id = s.prompt_id AND p.text = s.text
            """,
            p=p, s=s,
        )  # fmt: skip
    else:
        manifest = ManifestStore(store.cache, store.dataset)
        [(missing, extra)] = _ask(
            """
            WITH expected AS (
                SELECT unnest($classes) AS class_id, NULL AS image_id, 'template' AS kind, $templates AS n
                UNION ALL SELECT class_id, image_id, 'caption', len(captions) FROM m WHERE len(captions) > 0
                UNION ALL SELECT class_id, image_id, 'question', len(questions) FROM m WHERE len(questions) > 0
            ), found AS (SELECT class_id, image_id, kind, count(*) AS n FROM s WHERE kind <> 'answer' GROUP BY ALL)
            SELECT sum(greatest(coalesce(e.n, 0) - coalesce(f.n, 0), 0)),
                   sum(greatest(coalesce(f.n, 0) - coalesce(e.n, 0), 0))
            FROM expected e FULL JOIN found f ON e.kind = f.kind
                AND e.class_id IS NOT DISTINCT FROM f.class_id AND e.image_id IS NOT DISTINCT FROM f.image_id
            """,
            {
                "classes": list(manifest.provenance().class_names),
                "templates": len(origin.templates) if isinstance(origin, TextProvenance) else 0,
            },
            s=s, m=manifest.read(["image_id", "class_id", "captions", "questions"]),
        )  # fmt: skip
    return found + _miscounted("sentences", missing, extra)


def _images(store: Store, origin: Provenance) -> list[str]:
    s = store.read(["image_id", "view", "class_id", "split"])
    m = ManifestStore(store.cache, store.dataset).read(["image_id", "class_id", "split", "error"])
    left_out = list(origin.left_out) if isinstance(origin, ImageProvenance) else []
    excused = pa.table({"image_id": pa.array(left_out, pa.string())})
    [(missing, extra)] = _ask(
        """
        WITH there AS (SELECT DISTINCT image_id, class_id, split FROM s),
             joined AS (
                SELECT m.image_id, t.image_id AS found FROM (SELECT * FROM m WHERE error IS NULL) m FULL JOIN there t
                ON m.image_id = t.image_id AND m.split = t.split AND m.class_id IS NOT DISTINCT FROM t.class_id
             ),
             gone AS (SELECT image_id FROM joined WHERE found IS NULL)
        SELECT (SELECT count(*) FROM gone WHERE image_id NOT IN (FROM excused)),
               (SELECT count(*) FROM joined WHERE image_id IS NULL)
        """,
        s=s, m=m, excused=excused,
    )  # fmt: skip
    [(twice, uneven)] = _ask(
        """
        WITH each AS (SELECT image_id, count(*) AS n, count(DISTINCT view) AS views, min(view) AS first,
                      max(view) AS last FROM s GROUP BY image_id)
        SELECT coalesce(sum(n - views), 0),
               count(*) FILTER (first <> 0 OR last + 1 <> views OR views <> (SELECT max(views) FROM each)) FROM each
        """,
        s=s,
    )
    return [
        *_miscounted("images", missing, extra),
        *[f"{twice} views of images stand in it twice"] * bool(twice),
        *[f"{uneven} images do not have all their views"] * bool(uneven),
    ]


def _miscounted(what: str, missing: int | None, extra: int | None) -> list[str]:
    return [
        *[f"{missing} {what} are missing"] * bool(missing),
        *[f"{extra} {what} do not belong to the stores it was made from"] * bool(extra),
    ]


def _class_names(origin: Provenance) -> bool:
    """Whether a manifest's footer lists classes, and those of its hash."""
    return isinstance(origin, ManifestProvenance) and classes_hash(origin.class_names) == origin.inputs.get("classes")


def _ask(sql: str, values: dict[str, Any] | None = None, /, **tables: pa.Table | Store) -> list[tuple[Any, ...]]:
    """Rows of a query over Arrow tables; a store stands for its columns that name things."""
    import duckdb

    with duckdb.connect(":memory:") as connection:
        for name, table in tables.items():
            if isinstance(table, Store):
                table = table.read([c for c, _ in table.columns if c.endswith(("_id", "_name"))])
            connection.register(name, table)
        return list(connection.execute(sql, values or {}).fetchall())
