"""One small module per command of `interp`: `main(argv, prog=…)` returns an `Answer`. Nothing here prints."""
