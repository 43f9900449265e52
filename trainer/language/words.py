"""Captions to words, as the Penn Treebank's tokenizer cuts them: what BLEU, ROUGE-L and CIDEr-D count.

The field cuts captions with the Stanford PTB tokenizer (lower case) and drops punctuation. This is the same for what
captions hold: clitics stand alone (`it 's`, `do n't`), `cannot` is two words, hyphens, dots inside a word, numbers and
times stay (`t-shirt`, `u.s.`, `3.5`, `10:30`). Unlike there brackets are dropped as other punctuation is (lower case
hides them from COCO's list), and an abbreviation loses its last dot.
"""

import re

_TOKEN = re.compile(
    r"\d+(?:[.,:]\d+)*(?:st|nd|rd|th|s)?(?!\w)"  # numbers, times, ordinals
    r"|(?:\w\.){2,}"  # u.s.
    r"|\w+(?:[-'’/&.]\w+)*['’]?"  # words, with what joins their parts
    r"|[$%&#@+=*°€£]"
)
_CLITIC = re.compile(r"^(.+?)(n['’]t|['’](?:s|re|ve|ll|d|m)|['’])$")
_TWO = {"cannot": ("can", "not"), "gonna": ("gon", "na"), "gotta": ("got", "ta"), "wanna": ("wan", "na")}


def words(caption: str) -> list[str]:
    """The words of a caption, lower case, without punctuation; none for a caption without any."""
    found: list[str] = []
    for token in _TOKEN.findall(caption.lower()):
        found += _cut(token.replace("’", "'"))
    return found


def _cut(token: str) -> list[str]:
    """A word and its clitics."""
    if token in _TWO:
        return list(_TWO[token])
    clitic = _CLITIC.match(token)
    if clitic is None:
        return [token]
    head, tail = clitic.groups()
    return _cut(head) + ([] if tail == "'" else [tail])
