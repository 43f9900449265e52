"""params.yaml as typed models, one section a stage. Unknown keys and all other faults are reported together.

`load_params` reads a file; every command reads it first, and `--set` and flags change it under the same rules.
"""

import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from stages.errors import UserError, nearest
from stages.names import dataset_name
from stages.numbers import Count, Fraction, Number, Positive, Seed, Shots
from stages.training import TrainParams

Model = TypeVar("Model", bound=BaseModel)
MOST_FAULTS = 20
"""Faults that are listed; further ones are counted."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True, allow_inf_nan=False)


class SplitParams(_Section):
    """Shares of a seeded split, for sources that bring none; drawn per class."""

    train: Fraction = Field(0.5, description="share of each class, fraction")
    val: Fraction = Field(0.1, description="share of each class, fraction")
    test: Fraction = Field(0.4, description="share of each class, fraction")
    seed: Seed = Field(1, description="seed of the draw")

    @model_validator(mode="after")
    def _sum(self) -> "SplitParams":
        total = self.train + self.val + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train + val + test must be 1, found {total:g}")
        return self


class DataParams(_Section):
    """One data set: where its images come from and what is asked about its classes."""

    source: str | None = Field(None, description="folder, file, `package:NAME` or `hf:NAME`; see `pipeline ingest`")
    images: str | None = Field(None, description="folder of the images that a list, captions or questions name")
    encoder_name: str | None = Field(
        None, min_length=1, description="encoder that made the embeddings, where the source holds these and no images"
    )
    columns: dict[str, str] = Field(
        {},
        description="image, class, class_id, labels, split, caption, question, question_id, choices, answers -> its "
        "column",
    )
    multi_label: bool | None = Field(
        None, description="whether an image may have several classes, or none; null = as the source has them"
    )
    also_called: dict[str, list[str]] = Field(
        {}, description="class -> further names that captions call it: {person: [man, woman]} (tai, lmpt)"
    )
    split: SplitParams = Field(SplitParams(), description="used where the source has no train/val/test folders")
    split_folders: dict[str, Literal["train", "val", "test"]] | None = Field(
        None, description="folder -> its split; {} = folders called train or test are classes; null = found by looking"
    )
    max_missing: Fraction = Field(
        0.1, description="share of images that may be missing or unreadable; with more, ingest and embedding fail"
    )
    class_names: dict[str, str] = Field({}, description="folder name -> name in sentences")
    labels: str | list[str] = Field([], description="decisions about images, a CSV or several: docs/data-loop.md")
    exclude: str | list[str] = Field([], description="lists of images to leave out, a file or several")
    new_classes: list[str] = Field([], description="classes that the source lacks and a decision may give")
    templates: list[str] = Field(["a photo of a {}."], min_length=1, description="one `{}` each; averaged")
    kind: str | None = Field(
        None,
        max_length=100,
        pattern=r"^[^{}()\n]*$",
        description='what every class is, as a question to the LLM says it: `a type of pet`; "" = not said, null = '
        "that of the known data set",
    )
    questions: list[str] | str | None = Field(
        None, description="questions to the LLM, one `{}` each, or a YAML file of them; null = the shipped ones"
    )
    samples: int = Field(10, ge=1, le=1000, description="answers asked per question and class")

    @property
    def label_files(self) -> list[str]:
        """`labels` as a list."""
        return [self.labels] if isinstance(self.labels, str) else self.labels

    @property
    def exclude_files(self) -> list[str]:
        """`exclude` as a list."""
        return [self.exclude] if isinstance(self.exclude, str) else self.exclude

    @field_validator("templates", "questions")
    @classmethod
    def _one_gap(cls, value: list[str] | str | None) -> list[str] | str | None:
        for text in value if isinstance(value, list) else []:
            if text.count("{}") != 1:
                raise ValueError(f"needs exactly one {{}}: {text!r}")
        return value


class ServerParams(_Section):
    """An OpenAI-compatible server (`vllm serve` and others) in place of vLLM in this process."""

    url: str | None = Field(None, description="base address, such as http://localhost:8000/v1; null = in process")
    key_variable: str = Field("OPENAI_API_KEY", description="environment variable that holds the key, if one is needed")
    concurrency: int = Field(32, ge=1, le=1024, description="requests on their way at once")
    timeout: Positive = Field(120.0, le=86_400, description="longest wait for one answer, seconds")
    retries: int = Field(5, ge=0, le=100, description="times a failed request is sent again, with growing pauses")


class PromptParams(_Section):
    """How the language model is asked (CuPL protocol, section 3.1)."""

    llm: str = Field("smollm2", min_length=1, description="alias, hub id or local folder")
    phrasing: Literal["auto", "chat", "completion"] = Field(
        "auto",
        description="of the shipped questions: for models that follow instructions, or CuPL's; auto = chat where the "
        "model has a chat template",
    )
    temperature: Number = Field(0.99, ge=0, le=5, description="softmax temperature of sampling")
    top_p: Fraction = Field(1.0, description="nucleus of sampling")
    max_tokens: int = Field(50, ge=1, le=65_536, description="longest answer, tokens")
    seed: Seed = Field(1, description="every request derives its own seed from it")
    min_words: Count = Field(4, description="shorter sentences are dropped, words")
    max_words: Count = Field(60, description="longer sentences are dropped, words")
    batch: Count = Field(1000, description="answers asked of the LLM, and saved, at once")
    near_duplicate: Fraction | None = Field(
        0.98, description="sentences of a class closer than this cosine (settings' encoder) are dropped; null = keep"
    )
    rounds: int = Field(2, ge=1, le=20, description="times a class with too few kept sentences is asked, at most")
    contrast: int = Field(
        0, ge=0, le=10, description="nearest classes that a class is asked to be told from, in a second round; 0 = none"
    )
    keep: Count | None = Field(
        None, description="sentences a class keeps: those that find it and differ from each other; null = all"
    )
    ask_again_worst: int = Field(
        0, ge=0, le=1_000_000, description="classes that their sentences find least, which are asked once more"
    )
    allow_empty: bool = Field(
        False, description="write the store though a class has no kept sentence; its template stands in for them"
    )
    server: ServerParams = ServerParams()


class ImportParams(_Section):
    """Sentences from elsewhere: a file, or the captions of the manifest."""

    dataset: str = Field(description="data-set name")
    name: str = Field(description="what the source is called in place of an LLM")
    file: str | None = Field(
        None,
        description="JSON {class: [sentence, ...]}, CSV class,sentence, texts {class: text} or a Wikipedia dump; null "
        "= the manifest's captions",
    )


class EmbedParams(_Section):
    """How images and sentences are embedded."""

    batch: Count = Field(64, description="pictures encoded at once")
    workers: Literal["auto"] | Annotated[int, Field(ge=0, le=64)] = Field(
        "auto",
        description="processes that decode ahead of the encoder; 0 = all cores between two batches; auto = 0 where the "
        "encoder runs on the CPU, else one a core",
    )
    part: Count = Field(1024, description="embeddings saved at once: what a killed run does again at most")
    precision: Literal["float16", "float32"] = Field("float16", description="of the stored embeddings")
    views: int = Field(0, ge=0, le=1000, description="seeded augmentations an image, beside the centre crop")
    views_from: str | None = Field(
        None,
        min_length=1,
        description="folder with a folder of pictures for each image, named as its path without the suffix: the first "
        "`views` of them, by name, are its views; augmentations make up for pictures that lack. null = augmentations",
    )
    seed: Seed = Field(1, description="seed of the augmentations")


class ClusterParams(_Section):
    """Where the models of stage one run: in this process, or in workers of a Ray cluster (docs/scale.md)."""

    engine: Literal["local", "ray"] = Field("local", description="ray: several workers, on one machine or on many")
    address: str | None = Field(
        None,
        min_length=1,
        description="HOST:PORT of a running Ray cluster that this machine belongs to, or auto; null = one of its own, "
        "on this machine's loopback address, for as long as the command runs",
    )
    workers: Literal["auto"] | Annotated[int, Field(ge=1, le=65_536)] = Field(
        "auto", description="processes that hold the model; auto = as many as the cluster has room for"
    )
    gpus: Literal["auto"] | Annotated[Number, Field(ge=0, le=1024)] = Field(
        "auto",
        description="GPUs a worker, below 1 a share of one; auto = 1 where the cluster has any (a language model: "
        "--tensor-parallel-size), else 0",
    )
    cpus: Literal["auto"] | Annotated[int, Field(ge=1, le=4096)] = Field(
        "auto",
        description="CPU cores a worker; without a GPU the threads that it computes with, of which the last bits of an "
        "embedding depend; auto = this process's own number of threads, beside GPUs an equal share of the cores",
    )
    batch: Count = Field(256, description="pictures that a worker gets at once, rounded up to whole embed.batch")
    ahead: int = Field(2, ge=1, le=1000, description="batches that each worker has at hand, the one in work included")
    wait: Positive = Field(300.0, le=86_400, description="longest wait for a first worker, seconds")


class EvaluationParams(_Section):
    """Which protocols and methods `trainer run` takes."""

    protocols: list[str] = Field(
        ["few-shot", "base-to-new"],
        min_length=1,
        description="names of protocols (`trainer/protocols/`), such as few-shot and base-to-new",
    )
    methods: list[str] = Field(
        ["standard"], min_length=1, description="method names, or groups of them: `standard`, `all`, `family`"
    )
    shots: Shots | Annotated[list[Shots], Field(min_length=1)] = Field(
        16, description="training images a class; a list runs each number; all: every one that there is"
    )
    up_to: bool = Field(
        False, description="a class with fewer training images than shots gives what it has; false: it is refused"
    )
    seeds: list[Seed] = Field([1, 2, 3], min_length=1, description="one run each; the interval is over them")
    seeds_of: dict[str, Annotated[list[Seed], Field(min_length=1)]] = Field(
        {},
        description="data set -> seeds of its own in place of seeds: more where few classes leave wide intervals; "
        "--seeds and --set evaluation.seeds hold for all",
    )
    imbalance: Annotated[Number, Field(ge=1, le=100_000)] = Field(
        16.0, description="long-tailed draws: images of the largest class over those of the smallest"
    )
    noise: Fraction | Annotated[list[Fraction], Field(min_length=1)] = Field(
        0.25, description="label-noise: share of wrong labels, fraction; a list runs each share"
    )
    targets: list[str] = Field([], description="cross-dataset: data sets to test on; [] = the others under datasets")
    together: list[str] = Field(
        [], description="multitask, meta: data sets to learn together with; [] = the others under datasets"
    )
    shifts: dict[str, list[str]] = Field(
        {}, description="domain-generalization: data set -> its shifted variants to test on"
    )
    student_encoder: str | None = Field(
        None, min_length=1, description="second encoder, for methods that learn through two (nola); null = none"
    )
    sources: list[str] | None = Field(None, description="prompt sources to use, the main one first; null = all")
    prompts_per_class: Count | None = Field(None, description="reference prompts a class, at most; null = all")
    checkpoints: Literal["first", "all"] = Field(
        "first",
        description="classifiers to keep: few-shot's with the first seed and the most shots, or those of every fit",
    )
    indices: str | None = Field(
        None, description="CSV seed,shots,split,image_id of the images to train and validate on; null = drawn by seed"
    )

    folds: dict[str, Annotated[int, Field(ge=2, le=1000)]] = Field(
        {},
        description="captions: data set -> parts of a cross-validation over all its images, each embedded by a fit "
        "that did not see it; for sets too small to be split. Others are judged on their split test",
    )
    captions_per_image: Count | None = Field(
        None, description="captions an image, at most, the first ones; null = all (5 on COCO as the field does)"
    )
    learnt_on: list[str] = Field(
        [],
        description="captions: where AAPE was learnt beside the data set itself: names of data sets, which are fitted "
        "on, or folders of checkpoints",
    )
    memory: Literal["auto"] | Positive = Field(
        "auto",
        description="captions: embeddings that take more are read from the stores batch by batch, GB; auto: half of "
        "the device's free memory",
    )

    @field_validator("seeds", "shots")
    @classmethod
    def _once(cls, value: int | str | list[int | str]) -> int | str | list[int | str]:
        if isinstance(value, list) and len(set(value)) < len(value):
            twice = next(number for number in value if value.count(number) > 1)
            raise ValueError(f"{twice} stands twice: each counts once")
        return value

    @field_validator("seeds_of")
    @classmethod
    def _each_once(cls, value: dict[str, list[int]]) -> dict[str, list[int]]:
        for seeds in value.values():
            cls._once([*seeds])
        return value

    def seeds_for(self, dataset: str) -> list[int]:
        """The seeds of a data set's run."""
        return self.seeds_of.get(dataset, self.seeds)

    @property
    def shot_numbers(self) -> list[Shots]:
        """The numbers of shots as a list."""
        return self.shots if isinstance(self.shots, list) else [self.shots]

    @property
    def noise_shares(self) -> list[float]:
        """The shares of wrong labels as a list."""
        return self.noise if isinstance(self.noise, list) else [self.noise]


def is_folder(place: str) -> bool:
    """Whether an entry of `evaluation.learnt_on` is a folder of a checkpoint, and no name of a data set."""
    return "/" in place or "\\" in place or place.startswith(".")


class Params(_Section):
    """The whole file."""

    datasets: list[str] = Field(["textile"], min_length=1, description="data sets of the default run")
    llms: dict[str, str] = Field({}, description="own short names: alias -> hub id or local folder")
    encoder: str = Field(
        "lite", min_length=1, description="`lite`, `open_clip:ARCH/PRETRAINED` or `open_clip:ARCH/FILE`"
    )
    data: dict[str, DataParams] = Field({}, description="data-set name -> its section")
    prompts: PromptParams = PromptParams()
    imports: list[ImportParams] = Field([], description="sentences from elsewhere")
    embed: EmbedParams = EmbedParams()
    cluster: ClusterParams = ClusterParams()
    evaluation: EvaluationParams = EvaluationParams()
    train: TrainParams = TrainParams()

    @model_validator(mode="after")
    def _names(self) -> "Params":
        asked = self.evaluation
        variants = [name for source, names in asked.shifts.items() for name in (source, *names)]
        imported = [item.dataset for item in self.imports]
        learnt_on = [name for name in asked.learnt_on if not is_folder(name)]
        named = [*asked.targets, *variants, *asked.seeds_of, *asked.folds, *learnt_on]
        for name in [*self.datasets, *self.data, *imported, *named]:
            try:
                dataset_name(name)
            except UserError as error:
                raise ValueError(str(error)) from error
        return self

    @property
    def trained(self) -> TrainParams:
        """`train`, the user's own short name of the language model replaced by what it stands for (`llms`)."""
        asked = self.train.language
        language = asked.model_copy(update={"llm": self.llms.get(asked.llm, asked.llm)})
        return self.train.model_copy(update={"language": language})

    @property
    def stored(self) -> list[str]:
        """The data sets that stage one works on: those that are trained on, and their shifted variants."""
        variants = [name for names in self.evaluation.shifts.values() for name in names]
        return list(dict.fromkeys([*self.datasets, *variants]))

    def of(self, dataset: str) -> DataParams:
        """The section of a data set, the defaults where it has none."""
        return self.data.get(dataset, DataParams())


class _UniqueKeys(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice in one mapping."""


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(None, None, "a key must be a word, not a list", key.start_mark)
        if key.value in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} stands twice", key.start_mark)
        seen.add(key.value)
    return loader.construct_mapping(node, deep=True)


_UniqueKeys.add_constructor("tag:yaml.org,2002:map", _mapping)


def read_yaml_text(text: str, *, where: object) -> Any:
    """Parse YAML safely; no tags, no key twice.

    Args:
        where: what an error names: a file, or the flag that the text stood in.

    Raises:
        UserError: malformed, with line and column.
    """
    try:
        return yaml.load(text, Loader=_UniqueKeys)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{where}{place}: {error.problem}", exit_code=2) from error
    except RecursionError as error:
        raise UserError(f"{where}: lists in lists, too deep to be read", exit_code=2) from error
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        raise UserError(f"{where}: {' '.join(str(error).split())[:200]}", exit_code=2) from error


def read_yaml(path: Path) -> Any:
    """Parse a YAML file.

    Raises:
        UserError: missing, unreadable or malformed, with line and column.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"{path}: not found; name the settings file with --params", exit_code=2) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})", exit_code=2) from error
    return read_yaml_text(text, where=path)


def load_params(
    path: Path | None, changes: Mapping[str, Any] | None = None, *, flags: Mapping[str, str] | None = None
) -> Params:
    """Read and check params.yaml; None gives the defaults.

    Args:
        changes: setting -> value in place of the file's, such as `{"train.lambda": 3.0}`.
        flags: setting -> the option that changed it, which a fault then names: `{"evaluation.seeds": "--seeds"}`.

    Raises:
        UserError: every fault of the file and of the changes in one message, each with its path and value.
    """
    raw = None if path is None else read_yaml(path)
    return _check({} if raw is None else raw, changes or {}, where=str(path or "settings"), flags=flags or {})


def changed(params: Params, changes: Mapping[str, Any], *, where: str) -> Params:
    """Settings with some of them changed, validated like the file.

    Args:
        where: what an error names.

    Raises:
        UserError: unknown paths and values that do not fit, all in one message.
    """
    raw = params.model_dump(by_alias=True, exclude_unset=True, mode="python")
    return _check(raw, changes, where=where, of_changes=where)


def _check(
    raw: Any, changes: Mapping[str, Any], *, where: str, of_changes: str = "command line",
    flags: Mapping[str, str] | None = None,
) -> Params:  # fmt: skip
    """Settings from a file's content and changes to it; a fault says in which of the two it stands."""
    if "evaluation.seeds" in changes:  # seeds that are asked for hold for every data set
        changes = {"evaluation.seeds_of": {}, **changes}
    paths = [path_of(setting) for setting in changes]
    faults = []
    for path, value in zip(paths, changes.values(), strict=True):
        here = raw
        for depth, key in enumerate(path[:-1], 1):
            below = here.setdefault(key, {}) if isinstance(here, dict) else None
            if not isinstance(below, dict):
                faults.append(f"{of_changes}: {'.'.join(path)}: {'.'.join(path[:depth])} has no settings below it")
                break
            here = below
        else:
            if isinstance(here, dict):
                here[path[-1]] = value
    try:
        params = Params.model_validate(raw)
    except ValidationError as error:
        options = {path_of(setting): option for setting, option in (flags or {}).items()}
        for place, text in _faults(Params, error, raw):
            theirs = any(place[: len(path)] == path[: len(place)] for path in paths if place)
            option = next((option for path, option in options.items() if place[: len(path)] == path), None)
            faults.append(f"{option}: {text}" if option else f"{of_changes if theirs else where}: {_at(place)}: {text}")
    if faults:
        more = [f"and {len(faults) - MOST_FAULTS} more"] * (len(faults) > MOST_FAULTS)
        raise UserError("; ".join([*_prefixed_once(faults[:MOST_FAULTS]), *more]), exit_code=2)
    return params


def _prefixed_once(faults: Sequence[str]) -> Iterator[str]:
    """Faults without the place where it is that of the fault before."""
    last = ""
    for fault in faults:
        place, _, rest = fault.partition(": ")
        yield rest if place == last and rest else fault
        last = place


_KEY = re.compile(r'"([^"]+)"|([^."]+)')


def path_of(setting: str) -> tuple[str, ...]:
    """`data."my.set".samples` -> data, my.set, samples.

    Raises:
        UserError: a part is empty.
    """
    found = [quoted or plain for quoted, plain in _KEY.findall(setting)]
    whole = ".".join(f'"{key}"' if f'"{key}"' in setting else key for key in found)
    if not found or whole != setting:
        raise UserError(f"setting {setting!r}: expected SECTION.KEY, such as train.lambda", exit_code=2)
    return tuple(found)


def check(model: type[Model], raw: Any, *, where: str) -> Model:
    """Validate `raw` against a model, reporting all faults together."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        faults = [f"{_at(place)}: {text}" for place, text in _faults(model, error, raw)]
        more = [f"and {len(faults) - MOST_FAULTS} more"] * (len(faults) > MOST_FAULTS)
        raise UserError(f"{where}: " + "; ".join(faults[:MOST_FAULTS] + more), exit_code=2) from error


def _at(place: tuple[str, ...]) -> str:
    return ".".join(place) or "(top level)"


def _faults(model: type[BaseModel], error: ValidationError, raw: Any) -> list[tuple[tuple[str, ...], str]]:
    """Each faulty place of `raw` with what is wrong there; what a value may be otherwise is joined by `or`.

    Of a list that may stand in the place of one value only its faulty entries are named.
    """
    found: dict[tuple[str, ...], list[str]] = {}
    inputs = {}
    for fault in error.errors():
        place = _place(raw, fault)
        inputs[place] = fault["input"]
        if fault["type"] == "too_short":
            found[place] = ["at least one is needed"]
        elif found.get(place) != ["at least one is needed"]:
            found.setdefault(place, []).append(_message(model, fault))
    texts = []
    for place, messages in found.items():
        if isinstance(inputs[place], list) and any(place == other[: len(place)] != other for other in found):
            continue
        first, *others = dict.fromkeys(messages)
        others = [other.removeprefix("input should be ") for other in others]
        shown = messages == ["missing"] or messages[0].startswith("unknown key")
        value = "" if shown else f", found {reprlib.repr(inputs[place])[:80]}"
        texts.append((place, f"{' or '.join([first, *others])}{value}"))
    return texts


def _place(raw: Any, fault: Any) -> tuple[str, ...]:
    """Where a fault stands, without the names that pydantic gives to the members of a union."""
    here, place = raw, []
    for part in fault["loc"]:
        inside = part in here if isinstance(here, dict) else isinstance(here, list) and part in range(len(here))
        if inside:
            here = here[part]
        elif fault["type"] != "missing":
            continue
        place.append(str(part))
    return tuple(place)


def _message(model: type[BaseModel], fault: Any) -> str:
    if fault["type"] == "extra_forbidden":
        known = _keys_at(model, fault["loc"][:-1])
        return "unknown key" + (f" ({nearest(str(fault['loc'][-1]), known)})" if known else "")
    if fault["type"] == "missing":
        return "missing"
    message: str = fault["msg"].removeprefix("Value error, ")
    return message[0].lower() + message[1:]


def _keys_at(model: type[BaseModel], loc: tuple[Any, ...]) -> list[str]:
    """Names allowed at a place in the file, for the suggestion beside an unknown key."""
    current: Any = model
    for part in loc:
        if isinstance(current, type) and issubclass(current, BaseModel):
            fields = {f.alias or n: f.annotation for n, f in current.model_fields.items()}
            current = fields.get(str(part))
        elif getattr(current, "__args__", None):
            current = current.__args__[-1]
        else:
            return []
    if isinstance(current, type) and issubclass(current, BaseModel):
        return [f.alias or n for n, f in current.model_fields.items()]
    return []
