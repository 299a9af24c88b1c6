"""Search trees as one HTML page that needs no server: `data` (what the page is told), `document`
(the file). `page.html`, `page.css`, `layout.js` and `page.js` are the page itself.
"""
