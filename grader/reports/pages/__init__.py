"""A page for each student and one for the class: HTML that loads nothing from elsewhere.

`statistics` computes, `student` and `classroom` choose what a page says, `charts` draws, `render` makes HTML. Nothing here writes files.
"""
