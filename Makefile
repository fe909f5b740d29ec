# Everything starts here; every target but help, clean and distclean does its own set-up first (quick when it is done).
#   PYTHON=python3.12            which Python makes the environment (default: the first supported one)
#   UV_TORCH_BACKEND=cpu         PyTorch without CUDA: 2.5 GB of disk instead of 7 GB; give it every time

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench lock clean distclean

# A Python that the user named is taken as it is; otherwise the set-up looks for a supported one.
ifneq ($(filter command line environment,$(origin PYTHON)),)
  NAMED_PYTHON := $(PYTHON)
endif
RUN_SETUP := PYTHON="$(NAMED_PYTHON)" python3 -m tools.setup
ENV := . ./.venv/bin/mila-env &&

help:
	@echo "make demo                    play the bundled clip through the node; report in out/demo/report.html"
	@echo "make demo BAG=FOLDER         the same for any rosbag2 with a camera topic"
	@echo "make demo VIDEO=FILE         ... for a video file      make demo CAMERA=0   ... for a webcam"
	@echo "make demo MODEL=FILE         ... with another checkpoint"
	@echo "make test [ARGS=...]         lint, types and tests (ARGS go to pytest)"
	@echo "make bench                   measure; tables on the screen, rows in out/bench/*.json"
	@echo "make setup                   only the environment in .venv (. .venv/bin/mila-env to use it)"
	@echo "make lint | lock             ruff and mypy | pin the newest dependencies"
	@echo "make clean | distclean       remove what was built | and .venv"

setup:
	@command -v python3 >/dev/null || { echo "error: python3 is missing; run \`sudo apt-get install -y" \
	  "python3 python3-dev python3-venv g++ make\`" >&2; exit 2; }
	@$(RUN_SETUP)

demo: setup
	@.venv/bin/mila demo $(if $(BAG),--bag "$(BAG)") $(if $(VIDEO),--video "$(VIDEO)") \
	  $(if $(CAMERA),--camera "$(CAMERA)") $(if $(MODEL),--model "$(MODEL)") $(ARGS)

lint: setup
	@$(ENV) ruff check .
	@$(ENV) mypy

# First what needs no middleware, a file at a time on each of two cores; then the nodes, alone, since they keep time.
# pytest's status 5: ARGS chose nothing there.
test: lint
	@$(ENV) OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile -m "not node" $(ARGS) || [ $$? = 5 ]
	@$(ENV) python -m pytest -m node $(or $(ARGS),test/ros) || [ $$? = 5 ]

# A benchmark is a module in benchmarks/ that can be run; the others there help them.
bench: setup
	@$(ENV) for file in $$(grep -l '__name__ == "__main__"' benchmarks/*.py | grep -v -e rendered.py -e obstacles.py); do \
	  python -m benchmarks.$$(basename $$file .py) $(ARGS) || exit 1; done

lock: setup
	@$(ENV) python -m tools.lock

clean:
	rm -rf .venv/ros out/demo out/bench build *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv .venv-before
