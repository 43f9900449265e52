"""From questions about classes to the prompt stores: what a language model says of each class, or what people wrote.

`questions` fills templates with class names, `rounds` and `plan` say what is asked when, `score` and `subset` which
sentences find their class and are kept, `llms` finds a model by its name and
`engines` has it answer, `clean` and `near` keep one sentence an answer or the reason why not, `generate` does all that
for a data set and writes its store; `importing` takes sentences from files and captions, `summary` counts what is kept.
Nothing is imported here: the command line starts before any of it is needed.
"""
