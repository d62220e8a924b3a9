# What the README promises. Every command itself is in tox.ini; this file only sees to it that tox is there and .tox/dev is up to date.
PYTHON ?= python3
TOX := .tox/boot/bin/tox
READY := .tox/dev/.ready

.PHONY: grade test check lint types bench clean

grade: $(READY)  ## grade examples/ and print the scoreboard
	@$(TOX) run -qq -e grade

test: $(READY)  ## run all tests
	@$(TOX) run -q -e lint,types,test,check,sample

check lint types bench: $(READY)
	@$(TOX) run -q -e $@

$(TOX):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv .tox/boot
	.tox/boot/bin/python -m pip install --quiet "tox>=4.30"

$(READY): $(TOX) pyproject.toml constraints.txt tox.ini
	$(TOX) run -q -e dev
	@touch $@

clean:  ## remove what setting up and grading made
	rm -rf .tox results
