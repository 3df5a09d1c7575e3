"""Assembly: runs, backends and judges made from names and settings; it alone imports by name."""
