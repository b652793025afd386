"""The record of runs: store, writer, results, comparison, replay, report. No torch."""
