"""Everything in stage two assumes unit embeddings: others are named where they come from, not met as divergence."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_stores import make_stores
from small_tasks import small_task

from stages import ImageStore, TextStore, UserError
from stages.stores.artifacts import embedding_array, embedding_matrix
from trainer.data import Images, check_task
from trainer.data.features import load_features


@pytest.mark.parametrize(("kind", "source"), [("images", ""), ("text", "none"), ("text", "llm")])
def test_a_store_of_unnormalised_embeddings_is_named(tmp_path: Path, kind: str, source: str) -> None:
    make_stores(tmp_path, views=1)
    store = ImageStore(tmp_path, "w", "lite") if kind == "images" else TextStore(tmp_path, "w", "lite", source)
    table, origin = store.read(), store.provenance()
    vectors = embedding_matrix(table["embedding"]).astype(np.float32) * 12
    at = table.schema.get_field_index("embedding")
    store.write(table.set_column(at, table.schema.field(at), embedding_array(vectors.astype(np.float16))), origin)
    with pytest.raises(UserError, match=rf"{kind}.*embeddings are not of length 1 \(first: length 12\)") as caught:
        load_features(tmp_path, "w", "lite")
    assert "\n" not in str(caught.value)


def test_a_task_of_unnormalised_embeddings_is_refused() -> None:
    task = small_task()
    longer = task.train.embeddings.clone()
    longer[3] *= 7
    with pytest.raises(
        UserError, match=r"1 of 48 rows of the train image embeddings are not of length 1 \(first: row 3"
    ):
        check_task(replace(task, train=Images(longer, task.train.labels)))
    views = Images(task.train.embeddings, task.train.labels, longer[:, None])
    with pytest.raises(UserError, match="1 of 48 rows of the views of the train images"):
        check_task(replace(task, train=views))
    assert task.text.prompts is not None
    with pytest.raises(UserError, match="rows of the prompt embeddings are not of length 1"):
        check_task(replace(task, text=replace(task.text, prompts=task.text.prompts * 2)))
    with pytest.raises(UserError, match="rows of the template embeddings are not of length 1"):
        check_task(replace(task, text=replace(task.text, template=task.text.template * 0)))
    check_task(small_task())
    half = replace(task, train=Images(task.train.embeddings.half(), task.train.labels))
    check_task(half)
