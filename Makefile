# `make demo` and `make test` set up .venv by themselves, from the package index alone.
PYTHON ?= $(shell command -v python3.12 || command -v python3)
BIN := .venv/bin
