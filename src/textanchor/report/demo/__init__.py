"""The pages of report.html, one file each; `documents` has their order."""
