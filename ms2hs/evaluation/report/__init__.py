"""An evaluation for readers: terminal tables, HTML page, CSV and JSON."""
