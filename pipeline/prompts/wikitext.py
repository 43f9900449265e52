"""Wiki markup to plain paragraphs: what a reader sees as running text, and nothing else.

`mwparserfromhell` (MIT, extra `encyclopaedia`) takes templates, tables, links, tags and comments apart.
"""

import contextlib
import re

UNREAD = ("ref", "table", "gallery", "math", "score", "timeline", "code", "pre", "syntaxhighlight", "imagemap", "style")
"""Tags whose content is no running text."""
_HAS_MARKUP = re.compile(r"\[\[|\{\{|\{\||'''|<ref\b|^==.*==\s*$|<!--", re.MULTILINE)
_NOT_SHOWN = re.compile(
    r"\s*(?:file|image|category|datei|bild|kategorie|fichier|catégorie|archivo|categoría)\s*:", re.I
)
_HEADING = re.compile(r"^(={2,6})\s*(.*?)\s*\1\s*$", re.MULTILINE)
_LIST = re.compile(r"^[*#:;|!].*$", re.MULTILINE)
_APPENDIX = re.compile(
    r"^(see also|references?|notes?( and references)?|footnotes?|citations?|sources?|bibliography|works cited"
    r"|further reading|external links|gallery|siehe auch|einzelnachweise|literatur|weblinks)$",
    re.IGNORECASE,
)
_EMPTY_BRACKETS = re.compile(r"\s*[(（][\s,;:–-]*[)）]")
_SPACE_BEFORE = re.compile(r"\s+([,.;:!?])")
_LEADING = re.compile(r"([(（])[\s,;]+")
_AMBIGUOUS = re.compile(
    r"\{\{\s*(?:[\w -]*\b)?(?:disambig(?:uation)?(?: page| cleanup)?|dab|hndis|geodis|numberdis|begriffsklärung"
    r"|homonymie|desambiguación|disambigua|doorverwijspagina)\s*(?:\||\}\})|__DISAMBIG__",
    re.IGNORECASE,
)
_LINKED = re.compile(r"^\*+[^\[\n]{0,80}\[\[([^\]|#\n]{1,200})", re.MULTILINE)


def has_markup(text: str) -> bool:
    """Whether a text looks like wiki markup."""
    return bool(_HAS_MARKUP.search(text))


def is_disambiguation(title: str, text: str) -> bool:
    """Whether a page lists articles of one name in place of being one."""
    return title.endswith("(disambiguation)") or bool(_AMBIGUOUS.search(text))


def listed_titles(text: str) -> list[str]:
    """The titles that a page of disambiguation lists, in its order."""
    return list(dict.fromkeys(title.strip() for title in _LINKED.findall(text)))


def plain(text: str) -> str:
    """The running text, a paragraph a line, without lists, tables, notes, pictures and the sections of references."""
    import mwparserfromhell as wiki

    code = wiki.parse("\n".join(_sections(text)))
    for tag in code.filter_tags(matches=lambda node: str(node.tag).lower() in UNREAD):
        _remove(code, tag)
    for link in code.filter_wikilinks(matches=lambda node: bool(_NOT_SHOWN.match(str(node.title)))):
        _remove(code, link)
    shown = code.strip_code(normalize=True, collapse=False, keep_template_params=False)
    paragraphs = [_tidy(line) for line in shown.split("\n")]
    return "\n".join(line for line in paragraphs if line)


def _sections(text: str) -> list[str]:
    """The lead and the sections without headings and lists, those at the end that refer elsewhere left out."""
    parts = _HEADING.split(text)
    found = [parts[0]]
    skipped: int | None = None
    for level, title, body in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        if skipped is not None and len(level) > skipped:
            continue
        skipped = len(level) if _APPENDIX.match(title) else None
        if skipped is None:
            found.append(body)
    return [_without_lists(part) for part in found]


def _without_lists(text: str) -> str:
    """A section without the lines of lists; lines of templates and tables that look like those stay for the parser."""
    depth, kept = 0, []
    for line in text.split("\n"):
        if depth or not _LIST.match(line):
            kept.append(line)
        depth = max(0, depth + line.count("{{") + line.count("{|") - line.count("}}") - line.count("|}"))
    return "\n".join(kept)


def _remove(code: object, node: object) -> None:
    """Take a node out, unless it went with one that held it."""
    with contextlib.suppress(ValueError):
        code.remove(node)  # type: ignore[attr-defined]


def _tidy(line: str) -> str:
    line = _LEADING.sub(r"\1", _EMPTY_BRACKETS.sub("", line))
    return " ".join(_SPACE_BEFORE.sub(r"\1", line).split())
