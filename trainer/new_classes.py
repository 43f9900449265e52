"""`trainer predict --add-class`: classes that a checkpoint never saw, served by their text alone.

The name goes into the templates of the data set, and sentences about it come from a file or from a language model; both
are embedded with the checkpoint's own encoder. No image of the class is needed and nothing is trained.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.errors import UserError
from stages.names import display_name
from stages.params import Params
from stages.text import counted

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from trainer.checkpoint import Checkpoint
    from trainer.data import ClassText

USUAL_TEMPLATES = ("a photo of a {}.",)
LONGEST = 200
"""Characters of a class name."""
_TAG = re.compile(r"</?[A-Za-z!][^<>]*>")


@dataclass(frozen=True)
class NewClasses:
    """Classes to add.

    Attributes:
        names: as the user wrote them.
        file: sentences about them.
        params: whose language model is asked; None asks none.
    """

    names: tuple[str, ...]
    file: Path | None = None
    params: Params | None = None


def before_llm() -> None:
    """What has to be set before torch is imported where a language model will run in this process."""
    from pipeline.prompts.process import before_torch

    before_torch()


def checked_names(names: Sequence[str], known: Sequence[str], *, option: str = "--add-class") -> list[str]:
    """The names, without spaces around them.

    Args:
        option: that gave them, for messages.

    Raises:
        UserError: (exit code 2) an empty one, one with markup or characters that cannot be seen, one that is there
            already or stands twice, blind to case and separators.
    """
    folded = {_folded(name): name for name in known}
    found = []
    for given in names:
        name, said = given.strip(), f"{option} {given!r:.60}"
        if not any(char.isalnum() for char in display_name(name)):
            raise UserError(f"{said}: expected a class name with a letter or a digit", exit_code=2)
        if _TAG.search(name) or any(unicodedata.category(char)[0] == "C" for char in name):
            raise UserError(f"{said}: holds markup or unseen characters: write it as a sentence does", exit_code=2)
        if len(name) > LONGEST:
            raise UserError(f"{said}: has {len(name)} characters, expected at most {LONGEST}", exit_code=2)
        if _folded(name) in folded:
            raise UserError(f"{said}: {folded[_folded(name)]!r} is among the classes already", exit_code=2)
        folded[_folded(name)] = name
        found.append(name)
    return found


def _folded(name: str) -> str:
    return re.sub(r"[\s_\-]+", "", display_name(name)).casefold()


def with_classes(found: Checkpoint, encoder: Any, wanted: NewClasses) -> tuple[Checkpoint, list[str]]:
    """The checkpoint that serves these classes as well, and lines to say.

    Args:
        encoder: the one it was trained with; its `encode_text` is used.

    Raises:
        UserError: a method that knows only its own classes, a name that cannot be added, or a class without a sentence.
    """
    _require_able(found)
    names = checked_names(wanted.names, found.text.names)
    sentences, notes = _sentences(found, names, encoder, wanted)
    own = found.provenance.get("templates")
    if not own:
        notes.append(f"the checkpoint does not say its templates: {USUAL_TEMPLATES[0]!r} stands for the new classes")
    text = class_text(names, own or USUAL_TEMPLATES, sentences, encoder)
    needs = found.text.prompts is not None
    if needs and text.prompts is None:
        notes.append(f"no sentence about {', '.join(names)} was given (--prompts, --llm): the template stands in")
        text = text.named_by_template()
    notes.append(
        f"{counted(len(names), 'class', 'classes')} known by text alone beside {len(found.text)}: how sure the method "
        "is of such a class was not calibrated"
    )
    whole = bool(getattr(found.predictor, "attends", False))
    return replace(found, text=joined(found.text, text, whole=whole)), notes


def _require_able(found: Checkpoint) -> None:
    from stages.training import TrainParams
    from trainer.methods import METHODS, methods
    from trainer.runs.choice import AT

    name = found.provenance.get("method")
    able = [method.name for method in methods(list(METHODS), settings=TrainParams()) if method.serves_new_classes]
    if found.text.is_text and (name not in METHODS or name in able):
        return
    why = f"{name} knows no class but its own" if found.text.is_text else "it was trained without class text"
    others = [key for key in _beside(found.path.parent) if found.text.is_text and key.partition(AT)[0] in able]
    mend = f"take --method {' or '.join(others)}" if others else f"run `trainer run` with one of: {', '.join(able)}"
    raise UserError(f"{found.path}: cannot serve new classes: {why}; {mend}", exit_code=2)


def _beside(checkpoint: Path) -> list[str]:
    """The methods whose checkpoints lie in the run that kept this folder; none where it lies by itself."""
    from trainer.checkpoints import KEPT, kept_in

    folder = checkpoint.resolve().parent
    return list(kept_in(folder.parent)) if folder.name == KEPT else []


def _sentences(
    found: Checkpoint, names: Sequence[str], encoder: Any, wanted: NewClasses
) -> tuple[dict[str, list[str]], list[str]]:
    """Sentences by class; none where none were asked for."""
    if wanted.params is not None:
        from pipeline.prompts.named import sentences_about

        dataset = str(found.provenance.get("dataset", "new"))
        said, note = sentences_about(names, dataset=dataset, params=wanted.params, encoder=encoder)
        count = sum(map(len, said.values()))
        return said, [f"{counted(count, 'sentence')} of {wanted.params.prompts.llm}", *([note] if note else [])]
    if wanted.file is None:
        return {}, []
    from pipeline.prompts.clean import one_line
    from pipeline.prompts.importing import match
    from pipeline.prompts.sentence_files import read_sentences

    given = read_sentences(wanted.file)
    keys = match(dict(enumerate(names)), given, where=str(wanted.file))
    said = {
        name: list(dict.fromkeys(line for line in map(one_line, given[keys[i]]) if any(map(str.isalnum, line))))
        for i, name in enumerate(names)
    }
    silent = [name for name, lines in said.items() if not lines]
    if silent:
        raise UserError(f"{wanted.file}: no sentence with a letter or a digit about {', '.join(silent)}")
    lines = [f"{counted(sum(map(len, said.values())), 'sentence')} of {wanted.file}"]
    if spare := len(given) - len(keys):
        lines.append(f"{wanted.file}: {counted(spare, 'class', 'classes')} in it that nobody asked for")
    return said, lines


def class_text(
    names: Sequence[str], templates: Sequence[str], sentences: dict[str, list[str]], encoder: Any
) -> ClassText:
    """The text of classes, embedded and rounded as stores are."""
    import torch
    from torch.nn.functional import normalize

    from trainer.data import ClassText

    def embedded(texts: Sequence[str]) -> Float[Tensor, "N D"]:
        return normalize(encoder.encode_text(list(texts)).half().float().cpu(), dim=-1)

    each = torch.stack([embedded([t.replace("{}", display_name(name)) for t in templates]) for name in names])
    prompts = mask = None
    if sentences:
        longest = max(map(len, sentences.values()))
        prompts = torch.zeros(len(names), longest, each.shape[-1])
        mask = torch.zeros(len(names), longest, dtype=torch.bool)
        for i, name in enumerate(names):
            rows = embedded(sentences[name])
            prompts[i, : len(rows)], mask[i, : len(rows)] = rows, True
    return ClassText(tuple(names), each[:, 0].clone(), prompts, mask, each)


def joined(first: ClassText, second: ClassText, *, whole: bool) -> ClassText:
    """These classes, then those.

    Args:
        whole: whether the prompts are needed one by one; else one row a class, their mean, stands for them.
    """
    import torch
    from torch.nn.functional import pad

    from trainer.data import ClassText

    templates = None
    if first.templates is not None and second.templates is not None:
        count = first.templates.shape[1]
        more = second.templates if second.templates.shape[1] == count else second.template_mean()[:, None]
        templates = torch.cat([first.templates, more.expand(-1, count, -1)])
    prompts = mask = None
    if first.prompts is not None:
        both = [each if whole else _by_mean(each) for each in (first, second)]
        pairs = [each.require_prompts() for each in both]
        longest = max(rows.shape[1] for rows, _ in pairs)
        prompts = torch.cat([pad(rows, (0, 0, 0, longest - rows.shape[1])) for rows, _ in pairs])
        mask = torch.cat([pad(there, (0, longest - there.shape[1])) for _, there in pairs])
    return ClassText(
        first.names + second.names, torch.cat([first.template.float(), second.template]), prompts, mask, templates
    )


def _by_mean(text: ClassText) -> ClassText:
    import torch

    mask = torch.ones(len(text), 1, dtype=torch.bool, device=text.template.device)
    return replace(text, prompts=text.prompt_mean()[:, None], mask=mask)
