"""Heads of several sources, learnt apart and composed at inference; one is left out again without learning anew.

After "A-la-carte Prompt Tuning" (Bowman et al., CVPR 2023), where every source of data has prompt tokens of its own and
a model is put together of those that a user may use. There the tokens attend within the frozen tower, which no cached
feature can repeat. Here a source's head is what a closed form needs of it, sums over its images and its words
(`sums.py`). Sums add up, so that a composition is the head that would have been fitted to all sources at once, and one
that leaves a source out never saw it: exact, where the original is close.
"""
