"""One evaluation, from its options to its report."""
