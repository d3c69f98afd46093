"""The report of a model on labelled images: one HTML page, and the same facts as JSON and CSV.

- `facts`: the numbers, with `calibrated` (before and after calibration), `selective` (risk and coverage, cuts, sets),
  `breakdown` (how accuracy goes with other things) and `pixels` (what the images look like).
- `words`: what the numbers mean, in sentences.
- `charts`: the numbers as SVG; `page` with `report.html.j2`, `report.css` and `report.js`: all as HTML.
- `figures`: the charts for papers. `tables`: JSON and CSV. `write`: all of it in a folder.
"""
