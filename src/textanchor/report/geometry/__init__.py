"""The sections of geometry.html, one file each; `documents` has their order."""
