"""Search and confirm on Ray: the only place that imports it."""
