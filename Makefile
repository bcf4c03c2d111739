# Moongate's build. `make help` lists the targets; SANITIZE=1 and COVERAGE=1 build the same into folders of
# their own; V=1 shows the commands.

PREFIX   ?= /usr/local
OPTIMISE ?= $(if $(SANITIZE),-O1,-O2) -g
BUILD    := build$(if $(SANITIZE),/sanitize)$(if $(COVERAGE),/coverage)
T        ?= t
Q        := $(if $(V),,@)
ifeq ($(origin CC),default)
CC := gcc
endif

# From the ground up: a file may call only those before it (t/test_arrows.py).
SRC := base/text base/agenda base/clock base/log base/arena base/block base/random base/siphash base/folder \
       net/address net/dns net/resolve net/srv net/transport net/preface net/proxy_header net/hello \
       net/tls_certificate net/tls_tickets net/tls_settings net/tls_session net/tls \
       http/uri http/message http/head http/framing http/websocket http/websocket_key http/h1_write http/h1_read http/h1 \
       http/h2_head http/h2_stream http/h2_send http/h2_write http/h2_read http/h2 \
       proxy/shared proxy/metric proxy/meter proxy/tally proxy/shared_heap proxy/dict proxy/permit \
       proxy/cache_memory proxy/cache proxy/cache_claim proxy/cache_purge proxy/leader proxy/tcp \
       proxy/pool proxy/origin proxy/dial \
       proxy/peer proxy/roster proxy/route proxy/task proxy/window proxy/news proxy/health proxy/ejection proxy/breaker \
       proxy/health_report proxy/hook proxy/generation proxy/canary proxy/metrics_text \
       proxy/messages proxy/relay proxy/forward proxy/sink proxy/access proxy/engine proxy/queue proxy/in_flight \
       proxy/cache_fill proxy/hedge proxy/attempt proxy/retry proxy/mirror proxy/exchange proxy/cache_answer \
       script/inbox script/outside script/fetch_head script/fetch script/coding script/crypto script/key script/hash \
       script/base64 script/network script/file script/password script/watching script/waiting script/seam script/heap script/budget script/sources script/load \
       script/enter script/vm \
       server/turned_away server/handshake server/greeting server/listener server/bind server/inherited server/sockets \
       server/launch server/notify server/watch server/channel server/listeners server/generations server/peers server/report server/services \
       server/ready server/worker server/control server/declared server/children server/level server/probation server/status_report server/peers_command server/reload \
       server/upgrade server/commands \
       server/master server/ask \
       sim/chance sim/ledger sim/backend sim/crowd sim/world sim/simulate server/main
OBJ := $(SRC:%=$(BUILD)/core/%.o)
LUA := $(shell find lua -name '*.lua')
FUZZ := $(basename $(notdir $(wildcard t/fuzz/*.c)))
TEXTS := $(BUILD)/seam_text.o $(BUILD)/simulation_text.o
EMBEDDED := $(LUA:%.lua=$(BUILD)/%.o) $(TEXTS)

PACKAGES := luajit openssl libcares libnghttp2 zlib libbrotlienc libbrotlidec libzstd libxxhash jansson
FLAGS_OF := $(shell pkg-config --cflags $(PACKAGES) 2>/dev/null)
LIBS_OF  := $(shell pkg-config --libs $(PACKAGES) 2>/dev/null)
VERSION  := 0.1.0
CPPFLAGS += -iquote include -D_GNU_SOURCE -DMG_VERSION='"$(VERSION)"' $(FLAGS_OF)
WARNINGS := -Wall -Wextra -Werror -Wshadow -Wpointer-arith -Wstrict-prototypes -Wmissing-prototypes \
            -Wwrite-strings -Wundef -Wvla -Wformat=2
CFLAGS  += -std=gnu11 $(OPTIMISE) $(WARNINGS) -fPIE -fno-strict-aliasing -fstack-protector-strong -MMD -MP
LDFLAGS += -pie -Wl,-z,relro,-z,now,-z,noexecstack -Wl,--export-dynamic
LDLIBS  += $(LIBS_OF) -lev -lhttp_parser -lcrypt -lresolv -lm -lpthread
SANITIZERS ?= address,undefined
ifdef SANITIZE
CFLAGS  += -fsanitize=$(SANITIZERS) -fno-sanitize-recover=undefined -fno-omit-frame-pointer
LDFLAGS += -fsanitize=$(SANITIZERS)
else
CPPFLAGS += -D_FORTIFY_SOURCE=2
endif
ifdef COVERAGE
CFLAGS  += --coverage
LDFLAGS += --coverage
endif

all: $(BUILD)/moongate
.PHONY: all run test bench lint format install install-files uninstall clean help print-objects FORCE \
        deb deps deps-test deps-lint deps-bench deps-deb fuzz fuzz-build $(FUZZ:%=fuzz-%)
.DELETE_ON_ERROR:

# The objects themselves, no archive: FFI and require look symbols up by name, so all of them must be there.
$(BUILD)/moongate: $(OBJ) $(EMBEDDED) Makefile
	@echo "link $@"
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $(OBJ) $(EMBEDDED) $(LDLIBS)
$(BUILD)/libmoongate.a: $(filter-out %/main.o,$(OBJ)) $(TEXTS)
	@rm -f $@
	$(AR) rcs $@ $^
$(BUILD)/core/%.o: core/%.c | $(BUILD)/found
	@mkdir -p $(@D)
	@echo "cc $<"
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -c -o $@ $<
-include $(OBJ:.o=.d)

# Bytecode with line numbers; compiled inside lua/, so that a traceback says moongate/fiber.lua.
$(BUILD)/lua/%.o: lua/%.lua | $(BUILD)/found
	@mkdir -p $(@D)
	$(Q)cd lua && luajit -b -g -t o -n $(subst /,.,$(*:%/init=%)) $*.lua $(abspath $@)
# Headers as LuaJIT's ffi.cdef reads them: slice.h in front of seam.h, no preprocessor lines.
$(BUILD)/seam_text.c: include/slice.h include/seam.h
$(BUILD)/simulation_text.c: include/simulation.h
$(TEXTS:.o=.c): %.c:
	@mkdir -p $(@D)
	(echo 'extern const char mg_$(*F)[];'; echo 'const char mg_$(*F)[] ='; \
	 sed -e '/^#/d' -e 's/\\/\\\\/g; s/"/\\"/g; s/.*/"&\\n"/' $^; echo ';') > $@
$(TEXTS): %.o: %.c
	$(CC) -std=gnu11 -fPIE -c -o $@ $<

# Where ready-made policies are once installed: known to load.c alone, which is compiled anew when PREFIX changes.
$(BUILD)/core/script/load.o: CPPFLAGS += -DMG_SCRIPTS_DIR='"$(PREFIX)/share/moongate/scripts"'
$(BUILD)/core/script/load.o: $(BUILD)/prefix
$(BUILD)/prefix: FORCE
	@mkdir -p $(@D)
	@echo '$(PREFIX)' | cmp -s - $@ || echo '$(PREFIX)' > $@
$(BUILD)/found:
	@mkdir -p $(@D)
	@printf '#include <%s>\n' luajit.h ev.h http_parser.h ares.h openssl/ssl.h nghttp2/nghttp2.h zlib.h brotli/encode.h zstd.h xxhash.h jansson.h crypt.h | \
	 $(CC) $(CPPFLAGS) -fsyntax-only -x c - && command -v luajit > $@ || \
	 { echo 'libraries are missing: run `make deps`'; exit 1; }

# Debian's packages. Asks for rights only if something is missing. Some builds of nodejs bring npm along.
DEPS := gcc libc6-dev pkg-config libluajit-5.1-dev luajit libev-dev libhttp-parser-dev libc-ares-dev libssl-dev \
        zlib1g-dev libbrotli-dev libzstd-dev libxxhash-dev libjansson-dev libnghttp2-dev libcrypt-dev lua-cjson
DEPS_DEB := dpkg-dev binutils
DEPS_TEST := binutils python3-pytest python3-pytest-xdist python3-pytest-timeout python3-websockets redis-server \
             valgrind dnsmasq-base nginx-light haproxy curl wrk python3-brotli zstd \
             python3-h2 python3-jwt python3-cryptography nghttp2-client nodejs openssl testssl.sh apache2-utils \
             python3-prometheus-client prometheus bsdextrautils lua-socket mandoc systemd zsh jq etcd-server debootstrap systemd-container lintian $(DEPS_DEB) \
             $(if $(shell command -v npm),,npm)
DEPS_LINT := clang libclang-rt-14-dev clang-format clang-tidy cppcheck lua-check
DEPS_BENCH := openssl nghttp2-client nghttp2-server nginx-light libnginx-mod-http-ndk haproxy redis-server strace valgrind python3 nghttp2-client
missing = $(filter-out $(shell dpkg-query -W -f '$${db:Status-Status}:$${Package}\n' $(1) 2>/dev/null | \
                       sed -n 's/^installed://p'),$(1))
define install
	@$(if $(call missing,$(1)),$(if $(shell id -u | grep -x 0),,sudo )sh -c ' \
	 export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1; apt-get -q update && \
	 apt-get install -qy --no-install-recommends $(call missing,$(1))',:)
endef
deps:
	$(call install,$(DEPS))
deps-test:
	$(call install,$(DEPS) $(DEPS_TEST))
deps-lint:
	$(call install,$(DEPS) $(DEPS_LINT))
deps-deb:
	$(call install,$(DEPS) $(DEPS_DEB))
deps-bench:
	$(call install,$(DEPS) $(DEPS_BENCH))
	@t/bench/setup build/bench

run: deps
	@$(MAKE) --no-print-directory all
	exec $(BUILD)/moongate scripts/demo.lua
# What the tests run of npm's, in the build folder.
NODE := $(addprefix build/node/node_modules/,@grpc/grpc-js/package.json ws/package.json \
          http-message-signatures/package.json oidc-provider/package.json http-cache-tests/package.json)
$(NODE) &:
	@mkdir -p build/node
	npm install --silent --no-audit --no-fund --no-package-lock --prefix build/node @grpc/grpc-js@1 ws@8 \
	 http-message-signatures@1 oidc-provider@8 http-cache-tests@0.4.5

test: deps-test $(NODE)
	@$(MAKE) --no-print-directory all $(BUILD)/libmoongate.a
	MOONGATE_BINARY=$(CURDIR)/$(BUILD)/moongate SANITIZE=$(SANITIZE) /usr/bin/python3 -m pytest \
	 -q -n 2 --timeout=120 -o cache_dir=$(CURDIR)/build/pytest $(T)
bench: deps-bench
	@$(MAKE) --no-print-directory all
	t/bench/run $(if $(ONLY),--only $(ONLY)) $(if $(ROUNDS),--rounds $(ROUNDS))

# A fuzz target is t/fuzz/NAME.c, its seeds t/fuzz/corpus/NAME/, its words t/fuzz/NAME.dict.
FUZZ_SECONDS ?= 10
fuzz: $(FUZZ:%=fuzz-%)
fuzz-build: deps-lint
	@$(MAKE) --no-print-directory CC=clang BUILD=build/fuzz SANITIZE=1 SANITIZERS=address,undefined,fuzzer-no-link \
	 $(FUZZ:%=build/fuzz/%)
$(FUZZ:%=fuzz-%): fuzz-%: fuzz-build
	@mkdir -p build/fuzz/corpus/$*
	cd build/fuzz && ./$* -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 -verbosity=0 -close_fd_mask=1 \
	 $(patsubst %,-dict=../../%,$(wildcard t/fuzz/$*.dict)) corpus/$* $(patsubst %,../../%,$(wildcard t/fuzz/corpus/$*))
build/fuzz/%: t/fuzz/%.c $(BUILD)/libmoongate.a
	$(CC) $(CPPFLAGS) $(CFLAGS) -fsanitize=fuzzer $(LDFLAGS) -o $@ $< $(BUILD)/libmoongate.a $(LDLIBS)

C_FILES = $(wildcard core/*/*.c include/*.h t/unit/*.c t/unit/*.h t/fuzz/*.c t/fuzz/*.h t/bench/src/*.c)
lint: deps-lint
	clang-format --dry-run -Werror $(C_FILES)
	@! grep -nE '.{121}' $(C_FILES) || { echo 'lines over 120 columns'; exit 1; }
	cppcheck --quiet --error-exitcode=1 --enable=warning,performance,portability --inline-suppr \
	 --suppressions-list=.cppcheck --std=c11 -D__$(shell uname -m)__ -D_GNU_SOURCE -DMG_SCRIPTS_DIR='""' \
	 -DMG_VERSION='""' -Iinclude core
	printf '%s\n' $(SRC:%=core/%.c) | xargs -P $(shell nproc) -I {} \
	 clang-tidy --quiet --warnings-as-errors='*' {} -- $(CPPFLAGS) -std=gnu11 -DMG_SCRIPTS_DIR='""'
	luacheck --quiet lua scripts t
format:
	clang-format -i $(C_FILES)

# The unit names the binary of this PREFIX; the user's script is never overwritten nor removed.
install: all install-files
	install -D -m 755 $(BUILD)/moongate $(DESTDIR)$(PREFIX)/bin/moongate
install-files:
	find scripts -name package -prune -o -name '*.lua' -exec install -D -m 644 {} $(DESTDIR)$(PREFIX)/share/moongate/{} \;
	install -D -m 644 scripts/package/moongate.1 $(DESTDIR)$(PREFIX)/share/man/man1/moongate.1
	install -D -m 644 scripts/package/moongate.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/moongate
	install -D -m 644 scripts/package/moongate.zsh $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_moongate
	install -D -m 644 scripts/package/moongate.service $(DESTDIR)$(PREFIX)/lib/systemd/system/moongate.service
	install -D -m 644 scripts/package/moongate.socket $(DESTDIR)$(PREFIX)/lib/systemd/system/moongate.socket
	sed -i 's,/usr/bin/moongate,$(PREFIX)/bin/moongate,' $(DESTDIR)$(PREFIX)/lib/systemd/system/moongate.service
	test -e $(DESTDIR)/etc/moongate/gateway.lua || \
	 install -D -m 644 scripts/package/gateway.lua $(DESTDIR)/etc/moongate/gateway.lua
uninstall:
	cd $(DESTDIR)$(PREFIX) && rm -rf bin/moongate share/moongate share/man/man1/moongate.1 \
	 share/bash-completion/completions/moongate share/zsh/site-functions/_moongate lib/systemd/system/moongate.service \
	 lib/systemd/system/moongate.socket
# The Debian package. Its binary differs from that of build/ in one thing: it looks for policies where the package has them.
deb: deps-deb
	@$(MAKE) --no-print-directory all build/package/moongate
	scripts/package/deb build/package/moongate $(VERSION) build
build/package/load.o: core/script/load.c $(BUILD)/core/script/load.o
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -DMG_SCRIPTS_DIR='"/usr/share/moongate/scripts"' -c -o $@ $<
build/package/moongate: build/package/load.o $(filter-out %/script/load.o,$(OBJ)) $(EMBEDDED)
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)
clean:
	rm -rf build
print-objects:
	@printf '%s\n' $(OBJ)
help:
	@echo 'make             build/moongate            make test    all tests (T=t/test_x.py: these; SANITIZE=1)'
	@echo 'make run         builds and runs the demo  make fuzz    every fuzz target (fuzz-NAME: one; FUZZ_SECONDS=10)'
	@echo 'make deps        installs the libraries    make bench   beside the peers (ONLY=small,c1000 ROUNDS=5)'
	@echo 'make install     PREFIX=/usr/local DESTDIR make lint    style and static checks; make format mends style'
	@echo 'make uninstall, make clean                 make deb     build/moongate_*.deb, for Debian'
