"""`trainer serve`: a page on this machine alone that says what an image shows, and takes decisions about lists.

    lists.py      what `pipeline audit` and `trainer suggest` wrote, one item an image
    decisions.py  the file of decisions: whole at every moment, one row a decision, undo
    pictures.py   files and uploads to small JPEG copies
    answers.py    the likeliest classes of a picture, with the sentences that are nearest to it
    guard.py      who is answered: this machine, this page, this session
    app.py        the addresses of the page
    server.py     the socket, and what is said to the user
    files/        the page itself; colours and letters are those of results/report.html

Nothing that the browser sends names a file: an image is its place in the list, a class its place among the classes.
"""
