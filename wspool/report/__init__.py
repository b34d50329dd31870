"""The report of a rollout: one HTML file that shows what a directory of results holds, and opens offline.

`reading.py` takes lines one by one, `figures.py` and `picked.py` keep numbers and places of them,
`sections.py` makes tables and plots of those (`plots.py`, `transcript.py`), `making.py` writes the file.

1. What is there is shown: a run that is half done, or damaged, has a report that says so.
2. Neither the file nor the memory grows with the texts of a run: numbers are kept of every task, and texts
   of a few, cut.
3. Whatever a model, an agent or a server wrote is text and nothing else. Nothing runs in the page, and
   nothing of it comes from elsewhere; its own policy forbids both.
"""
