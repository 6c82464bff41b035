"""An evaluation as one HTML page: its verdict, its tables, its figures."""
