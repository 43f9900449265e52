"""VQA2's accuracy (Goyal et al. 2017): its normalisation of answers, its leave-one-out agreement, its types.

The rules are those of the official evaluation, oddities included: where all people gave the same answer nothing is
normalised, and every dot that no digit follows is dropped.
"""

import re
from collections import Counter
from collections.abc import Sequence

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"none": "0"} | {name: str(number) for number, name in enumerate(_NUMBER_WORDS)}
_ARTICLES = {"a", "an", "the"}
_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're
there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
_CONTRACTIONS = {
    word[:at] + word[at + 1 :]: word for word in _CONTRACTED.split() for at in range(len(word)) if word[at] == "'"
}
"""A contraction that lacks one apostrophe -> the contraction."""
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_DOT = re.compile(r"\.(?!\d)")
QUESTION_TYPES = """
are|are there|are there any|are these|are they|are the|can you|could|do|do you|does the|does this|has|how|how many
how many people are|how many people are in|is|is he|is it|is that a|is the|is the man|is the person|is the woman
is there|is there a|is this|is this a|is this an|is this person|was|what|what animal is|what are|what are the|what brand
what color|what color are the|what color is|what color is the|what does the|what is|what is in the|what is on the
what is the|what is the color of the|what is the man|what is the name|what is the person|what is the woman|what is this
what kind of|what number is|what room is|what sport is|what time|what type of|where are the|where is the|which|who is
why|why is the
""".strip().replace("\n", "|").split("|")  # fmt: skip
"""VQA2's question types: what a question begins with."""
OTHER_QUESTIONS = "none of the above"
ANSWER_TYPES = ("yes/no", "number", "other")


def normalised(answer: str) -> str:
    """An answer without punctuation and articles, numbers as digits, contractions with their apostrophes."""
    words = [_NUMBERS.get(word, word) for word in _without_punctuation(answer).lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def _without_punctuation(text: str) -> str:
    found = text
    for mark in _PUNCTUATION:
        beside = mark + " " in text or " " + mark in text
        found = found.replace(mark, "" if beside or _COMMA_IN_NUMBER.search(text) else " ")
    return _DOT.sub("", found)


def vqa_accuracy(answer: str, answers: Sequence[str]) -> float:
    """How far an answer agrees with people's: mean over the subsets that lack one of them of min(matches / 3, 1).

    Args:
        answers: of people, ten in VQA2; any number but none.
    """
    ours, theirs = _one_line(answer), [_one_line(each) for each in answers]
    if len(set(theirs)) > 1:
        ours, theirs = normalised(ours), [normalised(each) for each in theirs]
    matches = theirs.count(ours)
    return sum(min((matches - (each == ours)) / 3, 1.0) for each in theirs) / len(theirs)


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def usual_answer(answers: Sequence[str]) -> str:
    """What most people answered; of several the first."""
    return Counter(answers).most_common(1)[0][0]


def answer_type(answers: Sequence[str]) -> str:
    """`yes/no`, `number` or `other`, by what most people answered, as VQA2's annotations say."""
    usual = normalised(usual_answer(answers))
    if usual in ("yes", "no"):
        return "yes/no"
    return "number" if re.fullmatch(r"[\d.,]+", usual) else "other"


def question_type(question: str) -> str:
    """The longest of QUESTION_TYPES that the question begins with."""
    asked = f"{' '.join(re.findall(r'[a-z0-9]+', question.lower()))} "
    return max((each for each in QUESTION_TYPES if asked.startswith(f"{each} ")), key=len, default=OTHER_QUESTIONS)
