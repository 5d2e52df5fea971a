"""Plan before a run, watch during it: arithmetic and maths that know no host."""
