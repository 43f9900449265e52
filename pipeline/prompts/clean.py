"""From the raw answer of a language model to one sentence about the class, or to the reason why it is dropped.

What is kept is the first sentence (CuPL stops there), without list marks, markdown, tags, the quotes around it and a
leading "Certainly!". An answer that ended by itself needs no full stop (captions have none); one cut off by the token
limit before its first sentence was over is dropped as `unfinished`: half a sentence says half a thing.
Every function here accepts any text and never raises.
"""

import re
import unicodedata
from collections.abc import Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

from pipeline.prompts.questions import readable

DropReason = Literal[
    "empty",  # nothing but marks and spaces
    "refusal",  # the model declines, or speaks about itself or about the question
    "repeats_question",  # the question came back
    "asks",  # the answer is itself a question
    "other_language",  # letters of a script, or words of a language, in which nothing was asked
    "code",  # an address, program text or hashtags
    "repeats_itself",  # the same words again and again
    "no_thing",  # about web pages, programs or data that have the name of the class
    "unfinished",  # the token limit cut the first sentence off
    "too_short",  # fewer than min_words words
    "too_long",  # more than max_words words
    "no_subject",  # no word of the class name occurs
    "names_others",  # names a class from which the asked one was to be told
    "duplicate",  # the class already has this sentence
    "near_duplicate",  # the class already has a sentence of nearly the same embedding (`near.py`)
    "surplus",  # sound, but the class keeps others that differ more (`subset.py`)
]
SURPLUS: tuple[DropReason, ...] = ("surplus",)
"""Reasons that say nothing against a sentence."""
MOST_MARKS = 10
"""Layers of list marks, quotes and greetings that are taken off; what has more of them is no sentence."""
DROP_REASONS: tuple[DropReason, ...] = get_args(DropReason)


@dataclass(frozen=True, kw_only=True)
class Cleaned:
    """One cleaned answer; `drop_reason` is None when it is kept."""

    text: str
    drop_reason: DropReason | None


def clean(
    answer: str,
    *,
    class_name: str,
    question: str,
    finish_reason: str,
    others: Sequence[str] = (),
    min_words: int = 4,
    max_words: int = 60,
) -> Cleaned:
    """Clean one answer.

    Args:
        answer: what the model wrote.
        class_name: the subject it has to name; underscores count as spaces.
        question: what it was asked, the class name filled in.
        finish_reason: `length` when the token limit cut it off.
        others: classes from which it was to be told; "a crab is no lobster" reads as a lobster.
        min_words: a kept sentence has at least so many words.
        max_words: and at most so many.
    """
    text, finished = _first_sentence(answer, finish_reason)
    scripts = _scripts(question + class_name)
    text = _without_foreign_notes(text, scripts)
    words = text.split()
    reason: DropReason | None = None
    if not any(char.isalnum() for char in text):
        reason = "empty"
    elif _REFUSAL.search(text):
        reason = "refusal"
    elif _repeats(text, question):
        reason = "repeats_question"
    elif not finished:
        reason = "unfinished"
    elif len(words) < min_words:
        reason = "too_short"
    elif len(words) > max_words:
        reason = "too_long"
    elif text.rstrip("\"'”’)").endswith("?"):
        reason = "asks"
    elif _scripts(text) - scripts or _is_other_language(text, question):
        reason = "other_language"
    elif _CODE.search(text):
        reason = "code"
    elif _repeats_itself(text):
        reason = "repeats_itself"
    elif _is_no_thing(text, class_name):
        reason = "no_thing"
    elif not names_subject(text, class_name):
        reason = "no_subject"
    elif any(names_whole(text, other) and not names_whole(class_name, other) for other in others):
        reason = "names_others"
    return Cleaned(text=text, drop_reason=reason)


Seen = set[tuple[object, object, str]]


def mark_duplicates(rows: Iterable[MutableMapping[str, Any]], seen: Seen | None = None) -> None:
    """Drop, in place, every kept sentence that its class or image already has, blind to case and punctuation.

    Args:
        rows: rows of a prompt store (`text`, `drop_reason`, `class_id`, `image_id`); the first of equal ones stays.
        seen: what was kept before; the new ones are added.
    """
    seen = set() if seen is None else seen
    for row in rows:
        if row["drop_reason"] is None:
            key = (row.get("class_id"), row.get("image_id"), _bare(row["text"]) or row["text"])
            if key in seen:
                row["drop_reason"] = "duplicate"
            seen.add(key)


def says_nothing(answer: str) -> bool:
    """Whether an answer holds no letter and no digit outside a thinking phase."""
    return not any(char.isalnum() for char in _THOUGHTS.sub("", answer))


def sentences(text: str) -> list[str]:
    """Plain text, a paragraph a line, as its sentences in their order; abbreviations and initials end none."""
    found = []
    for line in _without_invisible(text).split("\n"):
        line, start = " ".join(line.split()), 0
        for end in _END.finditer(line):
            if _ends_sentence(line, end):
                found.append(line[start : end.end()].strip())
                start = end.end()
        found.append(line[start:].strip())
    return [sentence for sentence in found if sentence]


def one_line(text: str) -> str:
    """Text as a store can keep it: on one line, without control characters and halves of characters."""
    return " ".join(_without_invisible(text).split())


def storable(text: str) -> str:
    """Text that UTF-8 can say: lone halves of characters, which broken servers and JSON escapes bring, are replaced."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def names_subject(text: str, class_name: str) -> bool:
    """Whether a sentence names its subject: any word of the class name of three letters or more is enough.

    "A cougar is ..." names `cougar_body`, "seahorses" names `sea_horse`, "water lilies" names `water_lilly`,
    "rhinoceros" names `rhino`, "a pleat" names `pleated`. Case, accents, doubled letters and the endings s, e, y, ed
    and ing do not matter; a longer word that begins with the subject's counts from four letters on. A class name
    without letters or digits asks for nothing.
    """
    wanted = name_stems(class_name)
    if not wanted:
        return True
    said = [_stem(word) for word in _words(text)]
    said += [first + second for first, second in pairwise(said)]
    together = _stem("".join(_words(readable(class_name))))
    return any(
        word == target or (len(target) >= 4 and word.startswith(target)) or (not target.isascii() and target in word)
        for target in wanted | {together}
        for word in said
    )


def names_whole(text: str, class_name: str) -> bool:
    """Whether all words of a class name stand in a text, one behind the other, blind to case, accents and endings."""
    name, said = ([_stem(word) for word in _words(readable(each))] for each in (class_name, text))
    return bool(name) and any(said[start : start + len(name)] == name for start in range(len(said) - len(name) + 1))


def stem_of(word: str) -> str:
    """A word blind to case, accents, plural and the endings that do not matter (`names_subject`)."""
    return _stem("".join(_words(word)))


def name_stems(class_name: str) -> set[str]:
    """The words of a class name that a sentence may name it by, as `stem_of` has them."""
    subject = [_stem(word) for word in _words(readable(class_name))]
    return {word for word in subject if len(word) >= 3} or set(subject)


_INVISIBLE = {"Cc": " ", "Zl": "\n", "Zp": "\n", "Cf": "", "Cs": "", "Co": "", "Cn": ""}
_LINE_MARK = re.compile(r"^(?:[-*+•–—>#|~=]+\s*|\(?\d{1,2}[.)]\s+|\(?[a-zA-Z]\)\s+)+")
# Some templates write the opening tag themselves: the answer begins within the thinking.
_THOUGHTS = re.compile(
    r"\A(?:(?!<think(?:ing)?>).)*?</think(?:ing)?>|<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL
)
_BREAK = re.compile(r"</?(?:br|p|div|li|ul|ol|h\d|script|style)\b[^<>]{0,200}>", re.IGNORECASE)
_TAG = re.compile(r"</?[a-zA-Z][^<>]{0,200}>")
_LINK = re.compile(r"!?\[([^\[\]]{0,200})\]\([^()\s]{0,500}\)")
_EMPHASIS = re.compile(r"\*+|_{2,}|`+|(?<!\w)_|_(?!\w)")
_LEFT_OVER = re.compile(r"^[)\]}:;,.!?…/\\=~|>\s]+")
_LABEL = re.compile(
    r"^[\"'“‘]*(?:the )?(?:answer|caption|description|image|photo|picture|title|a|response)\s?:\s+", re.IGNORECASE
)
_INTERJECTION = re.compile(
    r"^[\"'“‘]*(?:(?:certainly|sure(?: thing)?|of course|absolutely|yes|ok(?:ay)?|hello|hi|great|understood|thanks"
    r"|thank you)\s?[!.,:;]+\s+)+",
    re.IGNORECASE,
)
_QUOTES = "\"'`“”„«»‘’"
# Opening quote -> what closes it; none of them stands between letters, where it is an apostrophe.
_CLOSING = {'"': r'"(?!\w)', "'": r"'(?!\w)", "`": "`", "“": "”", "„": "[“”]", "«": "»", "‘": r"’(?!\w)"}
_QUOTE = {mark: re.compile(rf"(?<!\w){mark}|{mark}(?!\w)") for mark in _QUOTES}
_REFUSAL = re.compile(
    r"\bas an? (?:ai|artificial|language model|large language)\b|\blanguage model\b|\bai (?:assistant|model)\b"
    r"|^(?:unfortunately|(?:i['’]m |i am )?(?:so |very |really )?sorry\b|my apologies|i apologi[sz]e)"
    r"|\bi(?:['’]m| am)? (?:cannot|can['’]?t|can not|don['’]t|do not|unable|not able|not sure|couldn['’]t|won['’]t)\b"
    r"|\bi(?:['’]m| am) (?:happy|glad|here) to\b|\bplease provide\b|\bknowledge i have\b|\bi have never seen\b"
    r"|\byou(?:['’]re| are) (?:referring to|looking for)\b|\byou(?:['’]ve| have) (?:provided|described|shared)\b"
    r"|\bnot possible to (?:access|accurately|describe|identify|see|determine|provide)\b"
    r"|\bthis question\b|\bwhat you (?:are asking|mean)\b",
    re.IGNORECASE,
)
# An address, a line of a program or of data, hashtags; what is left of tags and tables.
_CODE = re.compile(
    r"https?:|\bwww\.\w|\b[\w-]{2,63}\.(?:com|org|net|io|html?|php|jpe?g|png|gif|svg|py|js|css)\b|[{}\\|]|\w>\w|</?\w|```|=>|::"
    r"|\w\(\)|\w\s?={1,3}\s?[\w\"']|(?:^|\s)#\w|\b[a-z]+[A-Z]\w*\(",
)
_REPEATED = re.compile(r"\b(\w{1,40}(?:\W{1,9}\w{1,40}){0,3})(?:\W{1,9}\1\b){2,}", re.IGNORECASE)
# What has the name of a thing in computing: an anchor of HTML, an accordion of CSS, a database called Ibis.
_NO_THING = re.compile(
    r"\b(css|html|javascript|typescript|jquery|json|yaml|xml|sql|nosql|dbms|apis?|urls?|hyperlinks?|web ?pages?"
    r"|web ?sites?|web (?:design|element|development|browser)s?|user interface|ui (?:element|component)s?"
    r"|navigation link|programming|microservices?|open.source|database (?:system|engine|management)s?)\b",
    re.IGNORECASE,
)
# Words that English sentences can hardly do without, and those of other languages that are written alike.
_ENGLISH = frozenset({
    "the", "of", "and", "with", "is", "are", "has", "have", "it", "its", "that", "this", "which", "by", "from", "for",
    "on", "to", "at", "as", "or", "be", "can", "like", "their", "you", "your", "often", "what", "how", "does", "do",
})  # fmt: skip
_FOREIGN = frozenset({
    "el", "los", "las", "una", "un", "del", "es", "con", "que", "y", "por", "der", "das", "und", "ist", "ein", "eine",
    "mit", "auf", "den", "dem", "le", "les", "des", "est", "une", "et", "avec", "dans", "il", "della", "di", "che",
    "per", "da", "um", "uma", "com", "dos", "een", "het", "van", "zijn", "och", "som", "jest", "z", "ve", "bir",
})  # fmt: skip
_EAST_ASIAN = frozenset({"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "BOPOMOFO", "HANGUL"})
_NOTE = re.compile(r"\s*[(（]([^()（）]{1,80})[)）]")
# A full stop after one of these ends no sentence.
_ABBREVIATIONS = frozenset(
    {"e.g", "i.e", "eg", "ie", "mr", "mrs", "ms", "dr", "st", "prof", "vs", "cf", "approx", "ca", "fig"}
)
_END = re.compile(rf"[.!?…]+[{_QUOTES})\]]*(?=\s|$)")


def _first_sentence(answer: str, finish_reason: str) -> tuple[str, bool]:
    """The first sentence of an answer, and whether it was brought to an end."""
    text, finished = _cut(answer, cut_off=finish_reason == "length")
    for _ in range(MOST_MARKS):  # a mark may stand behind another one
        again = _cut(text, cut_off=False)[0]
        if again == text:
            return text, finished
        text = again
    return "", True


def _cut(answer: str, *, cut_off: bool) -> tuple[str, bool]:
    text = _TAG.sub("", _BREAK.sub("\n", _THOUGHTS.sub("", _without_invisible(answer))))
    lines = [_without_marks(line) for line in text.split("\n")]
    lines = [line for line in lines if line]
    while len(lines) > 1 and lines[0].endswith(":"):  # "Here is a description of a cup:"
        lines.pop(0)
    if not lines:
        return "", True
    line = lines[0]
    for end in _END.finditer(line):
        if _ends_sentence(line, end):
            return _unquoted(line[: end.end()]), True
    return _unquoted(line), not (cut_off and len(lines) == 1) and not _ends_in_abbreviation(line)


def _without_invisible(text: str) -> str:
    """The text without characters that cannot be seen or stored; line ends become newlines."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\N{REPLACEMENT CHARACTER}", "")
    if text.isprintable():
        return text
    return "".join(char if char == "\n" else _INVISIBLE.get(unicodedata.category(char), char) for char in text)


def _without_marks(line: str) -> str:
    """One line without list marks, markdown, a leading label or interjection, spaces squeezed."""
    line = _LINK.sub(r"\1", " ".join(line.split()))
    line = " ".join(_EMPHASIS.sub("", _LINE_MARK.sub("", line)).split())
    return _INTERJECTION.sub("", _LABEL.sub("", _LEFT_OVER.sub("", line))).strip()


def _unquoted(text: str) -> str:
    """A sentence without the quotes around it or one whose other half is gone; `"Meshed" cloth` keeps both."""
    for _ in range(2):  # a run of quotes, at either end, counts as one
        text = _last(text, text.lstrip(_QUOTES + " "))[::-1]
    if text and text[0] in _CLOSING:
        end = re.search(_CLOSING[text[0]], text[1:])
        if end is None:
            text = text[1:].lstrip()
        elif not any(char.isalnum() for char in text[1 + end.end() :]):
            text = (text[1 : 1 + end.start()] + text[1 + end.end() :]).strip()
    elif text and text[0] in _QUOTES:
        text = text[1:].lstrip()
    if text and text[-1] in _QUOTES and len(_QUOTE[text[-1]].findall(text)) % 2 == 1:
        text = text[:-1].rstrip()
    return text


def _last(text: str, rest: str) -> str:
    """The end `rest` of a text with the last of the quotes that stood before it."""
    return text[: len(text) - len(rest)].rstrip()[-1:] + rest


def _ends_sentence(line: str, end: re.Match[str]) -> bool:
    """Whether the mark at `end` closes a sentence, and not an abbreviation, an initial or a quotation inside it."""
    rest = line[end.end() :].lstrip()
    if rest[:1].islower():
        return False
    if not end[0].startswith("."):
        return True
    word = line[: end.start()].split(" ")[-1].strip(_QUOTES + "([").lower()
    if word in _ABBREVIATIONS:
        return False
    inner = re.fullmatch(r"(?:[a-z]\.)+[a-z]", word) or (len(word) == 1 and word.isalpha() and word != "i")
    return not (inner and rest)


def _ends_in_abbreviation(line: str) -> bool:
    return line.endswith(".") and line.rstrip(".").split(" ")[-1].lower() in _ABBREVIATIONS


def _scripts(text: str) -> frozenset[str]:
    """The scripts of the letters in a text, by their names in Unicode; those of East Asia count as one."""
    if text.isascii():
        return frozenset({"LATIN"} if any(char.isalpha() for char in text) else ())
    names = {unicodedata.name(char, "?").split(" ")[0] for char in text if char.isalpha()}
    plain = {"FULLWIDTH": "LATIN", "HALFWIDTH": "CJK", "MATHEMATICAL": "LATIN", "MICRO": "LATIN", "FEMININE": "LATIN"}
    return frozenset(
        "CJK" if name in _EAST_ASIAN else plain.get(name, name) for name in names - {"MASCULINE", "MODIFIER"}
    )


def _without_foreign_notes(text: str, scripts: frozenset[str]) -> str:
    """A sentence without what stands in brackets in a script in which nothing was asked: `Yin and Yang (陰陽) are`."""
    if text.isascii():
        return text
    return _NOTE.sub(lambda note: note[0] if _scripts(note[1]) & scripts or not _scripts(note[1]) else "", text)


def _is_other_language(text: str, question: str) -> bool:
    """Whether an English question got a sentence in another language of the same script."""
    said, asked = set(_words(text)), set(_words(question))
    return len(_FOREIGN & said) >= 2 and not _ENGLISH & said and bool(_ENGLISH & asked)


def _repeats_itself(text: str) -> bool:
    """Whether some words stand three times in a row, or hardly any word is new."""
    words = _words(text)
    return bool(_REPEATED.search(text)) or (len(words) >= 12 and len(set(words)) < 0.4 * len(words))


def _is_no_thing(text: str, class_name: str) -> bool:
    found = _NO_THING.search(text)
    return bool(found) and not _NO_THING.search(readable(class_name))


def _repeats(text: str, question: str) -> bool:
    """Whether a sentence is the question, begins with it, or is its beginning."""
    said, asked = _bare(text), _bare(question)
    return bool(said and asked) and (said.startswith(asked) or (asked.startswith(said) and len(said.split()) > 3))


def _bare(text: str) -> str:
    """Lower-case words alone, for comparing."""
    return " ".join(_words(text))


def _words(text: str) -> list[str]:
    plain = "".join(char for char in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(char))
    return re.findall(r"[^\W_]+", re.sub(r"['’]s\b", "", plain))


def _stem(word: str) -> str:
    """A word without plural, ed, ing, y, doubled letters and final e: lilies and lilly -> lily, pleated -> pleat."""
    if len(word) > 3:
        if word.endswith("ies"):
            word = word[:-3] + "y"
        elif word.endswith("ves"):
            word = word[:-3] + "f"
        elif re.search(r"(?:s|x|z|ch|sh)es$", word):
            word = word[:-2]
        elif word.endswith("s") and not word.endswith(("ss", "us", "is")):
            word = word[:-1]
    word = re.sub(r"([a-z])\1", r"\1", word)
    word = re.sub(r"^(.{3,})(?:ed|ing)$|^(.{4,})y$", r"\1\2", word)
    return word[:-1] if len(word) > 3 and word.endswith("e") else word
