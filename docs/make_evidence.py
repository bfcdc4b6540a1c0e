"""Writes the page and the tables of docs/evidence/ from the committed records: python docs/make_evidence.py"""

from pathlib import Path

from textanchor.experiment.reading.evidence import write_evidence

if __name__ == "__main__":
    for path in write_evidence(Path(__file__).with_name("evidence")):
        print(path)
