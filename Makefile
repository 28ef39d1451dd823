# sbxmigrate: build, check and measure. `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

GO ?= go
PREFIX ?= /usr/local
FUZZTIME ?= 20s

# With cgo the systrap stub hangs at start-up, so nothing here is built with it.
export CGO_ENABLED := 0

.PHONY: help build test race lint fuzz bench demo install clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

build: ## bin/sbxmigrate
	$(GO) build -trimpath -o bin/sbxmigrate ./cmd/sbxmigrate

test: ## every test, end-to-end ones included; needs root
	.ci/deps
	$(GO) test -count=1 -timeout 25m ./...

# The race detector needs cgo, which the sentry does not survive: packages whose tests start a
# sandbox are left to `make test`. Those that only compute and move bytes are checked here.
race: ## the packages that start no sandbox, under the race detector
	CGO_ENABLED=1 $(GO) test -race -timeout 15m ./mounts/... ./restoreenv/... ./image/... ./migrate/... ./checkpoint/... \
		./sandbox/control ./sandbox/dirty/pages ./sandbox/terminal ./e2e/redis

lint: ## gofmt, go vet, staticcheck
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); \
	if [ -n "$$unformatted" ]; then echo "gofmt -w these files:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

fuzz: ## every fuzz target for FUZZTIME (20s) each
	@for package in $$($(GO) list ./...); do \
		for target in $$(grep -hoE '^func Fuzz[A-Za-z0-9_]+' $$($(GO) list -f '{{$$dir := .Dir}}{{range .TestGoFiles}}{{$$dir}}/{{.}} {{end}}{{range .XTestGoFiles}}{{$$dir}}/{{.}} {{end}}' $$package) /dev/null | cut -c6-); do \
			echo "fuzz $$package $$target"; \
			$(GO) test -toolexec $(CURDIR)/.ci/fuzz-tool -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$package || exit 1; \
		done; \
	done

bench: ## side by side with runsc of the same gVisor version; needs root
	$(GO) run ./bench

demo: ## live-migrate a sandbox between two "hosts" on this machine; needs root
	$(GO) run ./cmd/sbxmigrate demo

install: build ## PREFIX/bin/sbxmigrate (PREFIX=/usr/local)
	install -D -m 0755 bin/sbxmigrate $(DESTDIR)$(PREFIX)/bin/sbxmigrate

clean: ## remove what build made
	rm -rf bin
