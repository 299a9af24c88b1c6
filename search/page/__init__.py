"""Search trees as one HTML page that needs no server: `data` (what the page is told), `document`
(the file). `page.html` and `page.css` are the page; of its scripts, `layout` places a tree, `tree`
has what all share, `picture` draws, `pane` is moved and chosen in, `panel` describes a step, and
`page` has the time and the problems.
"""
