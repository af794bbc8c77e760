"""From the records of runs to rows, tables and pages."""
