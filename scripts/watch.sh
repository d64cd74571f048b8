#!/usr/bin/env bash
# Monitors the proxy as an operator does: a real Prometheus, with contrib's
# configuration, scrapes a real proxy under a mixed load, and is then queried.
#
#	scripts/watch.sh [PICTURE.png]
#
# With PICTURE.png, a headless Chromium takes a picture of contrib's console near
# the end of the load. The load: JSON and streams of many lengths, bursts,
# refusals, errors and an outage of the upstream, aborted streams, and clients
# that disconnect. The upstream is a fake one, and the key is random.
#
# It needs Go, curl 7.84, and prometheus with promtool (Debian: prometheus, whose
# service need not run); for the picture chromium. As root it also sends requests
# as a user that the proxy must refuse. All sockets are on 127.0.0.1, all files
# in one directory under /tmp. It takes LOAD seconds (150) and about 20 more, ends
# after LOAD + 200 at the latest, and leaves nothing running.
# Exit codes: 0 for success, 1 for a failure, 2 if it cannot run on this machine.
set -euo pipefail

readonly load=${LOAD:-150} # seconds
readonly console_libraries=${CONSOLE_LIBRARIES:-/usr/share/doc/prometheus/examples/console_libraries}

say() { printf '\n== %s\n' "$*"; }
die() { printf 'watch.sh: %s\n' "$*" >&2; tail -n 5 "$tmp"/*.log >&2 || true; exit 1; }
cannot() { printf 'watch.sh: cannot run here: %s\n' "$*" >&2; exit 2; }

if ! [[ $load =~ ^[0-9]{2,3}$ ]] || [ "$load" -lt 60 ]; then cannot "LOAD is a number of seconds from 60 to 999"; fi
if [ -z "${WATCH_BOUNDED:-}" ]; then
	WATCH_BOUNDED=1 exec timeout --foreground --kill-after=30 $((load + 200)) "$0" "$@"
fi
picture=${1:+$(realpath -m "$1")}
cd "$(dirname "$0")/.."
for tool in go curl prometheus promtool ${picture:+chromium}; do
	command -v "$tool" >/dev/null || cannot "$tool is not installed"
done

[ -z "$picture" ] || [ -e "$console_libraries/prom.lib" ] || cannot "there is no $console_libraries/prom.lib; set CONSOLE_LIBRARIES to its directory"

tmp=$(mktemp -d /tmp/responses-api-proxy-watch-XXXXXX)
standin='' jobs=() # processes: the upstream; the proxy, Prometheus, the load

clear_up() {
	trap - EXIT INT TERM
	kill -TERM $standin "${jobs[@]}" 2>/dev/null || true
	wait
	rm -rf "$tmp"
}
trap clear_up EXIT
trap 'exit 1' INT TERM

# within SECONDS COMMAND... runs the command until it succeeds.
within() {
	local end=$((SECONDS + $1))
	shift
	until "$@"; do
		[ "$SECONDS" -lt "$end" ] || return 1
		sleep 0.2
	done
}
# is WHAT CONDITION asserts CONDITION, an awk expression of numbers.
is() {
	awk "BEGIN { exit !($2) }" || die "$1: $2 does not hold"
	printf '   ok: %s: %s\n' "$1" "$2"
}

say "build"
export CGO_ENABLED=0
go build -trimpath -o "$tmp/responses-api-proxy" ./cmd/responses-api-proxy
go build -buildvcs=false -o "$tmp/standin" scripts/standin.go
key=sk-watch-$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')

# --- processes ---------------------------------------------------------------

upstream=127.0.0.1:0 # a free port, and the same one after the outage
start_upstream() {
	"$tmp/standin" "$upstream" "$key" >"$tmp/standin.log" 2>&1 &
	standin=$!
	within 10 grep -qs '^http' "$tmp/standin.log" || die "the upstream does not start"
	upstream=$(sed 's,http://\([^/]*\)/.*,\1,' "$tmp/standin.log")
}

start_proxy() {
	local user=()
	[ "$(id -u)" != 0 ] || user=(--user nobody)
	"$tmp/responses-api-proxy" --upstream-url "http://$upstream/v1/responses" "${user[@]}" --allow-user "$(id -u)" \
		--metrics 127.0.0.1:0 --audit - --server-info "$tmp/info" --max-body 64KiB --max-concurrent 24 \
		<<<"$key" >"$tmp/audit.jsonl" 2>"$tmp/proxy.log" &
	jobs+=("$!")
	within 10 grep -qs ' protections ' "$tmp/proxy.log" || die "the proxy does not start"
	base=http://127.0.0.1:$(sed 's/.*"port":\([0-9]*\).*/\1/' "$tmp/info")
	metrics=$(sed -n 's/.* metrics on //p' "$tmp/proxy.log")
}

# start_prometheus runs it with contrib's own files, but scrapes each second, for
# the load is minutes long and not hours.
start_prometheus() {
	cp contrib/prometheus/alerts.yml "$tmp"
	sed -e 's/_interval: 15s/_interval: 1s/' -e "s/127\.0\.0\.1:9464\"/$metrics\"/" contrib/prometheus/prometheus.yml >"$tmp/prometheus.yml"
	grep -q "\"$metrics\"" "$tmp/prometheus.yml" || die "contrib/prometheus/prometheus.yml has no target to replace"
	prometheus --config.file="$tmp/prometheus.yml" --storage.tsdb.path="$tmp/data" --web.listen-address=127.0.0.1:0 \
		--web.console.templates=contrib/prometheus/consoles --web.console.libraries="$console_libraries" \
		2>"$tmp/prometheus.log" &
	jobs+=("$!")
	within 20 grep -qs 'msg="Server is ready' "$tmp/prometheus.log" || die "Prometheus does not start"
	server=http://$(sed -n 's/.*msg="Listening on" address=//p' "$tmp/prometheus.log")
}

# --- the load ----------------------------------------------------------------

# post FAKE [CURL-OPTION...] sends one request in the background, to which the
# fake upstream responds by the scenario FAKE (internal/lab/openaitest).
post() {
	local fake=$1
	shift
	curl --silent --max-time 30 --header "X-Fake: $fake" \
		--json '{"model":"gpt-5","input":"What is the capital of France?","stream":true}' "$@" "$base/v1/responses" >/dev/null &
}

# ordinary N sends requests that succeed, of many lengths, some of them three on one connection.
ordinary() {
	local i
	for ((i = 0; i < $1; i++)); do
		case $((RANDOM % 11)) in
		0) post "json s=$((RANDOM % 4000))" ;;
		1 | [6-9] | 10) post "silent d=$((100 + RANDOM % 900))ms" ;;
		2) post "keepalive n=3 d=$((RANDOM % 200))ms" ;;
		3) post "sse n=$((20 + RANDOM % 100)) d=20ms s=20" ;;
		4) post "json s=200" --rate 1/s "$base/v1/responses" "$base/v1/responses" ;; # with a pause between them
		5) post "headthensilent d=$((300 + RANDOM % 1500))ms" ;;
		esac
	done
}

# refused sends what the proxy must not forward, one kind each second.
refused() {
	case $(($1 % 8)) in
	0) curl --silent --output /dev/null "$base/v1/models" & ;;
	1) post auto --header 'Origin: https://example.com' ;;
	2) post auto --header 'Host: example.com' ;;
	4) post auto --data-binary "@$tmp/responses-api-proxy" --header 'Expect:' ;;
	6) [ "$(id -u)" != 0 ] || setpriv --reuid=daemon --clear-groups curl --silent --output /dev/null --data '{}' "$base/v1/responses" & ;;
	esac
}

# faults causes failures of the upstream and of clients.
faults() {
	case $(($1 % 10)) in
	1) post "status code=429 retry=1" ;;
	3) post "cut n=8 d=30ms" ;;
	5) post "sse n=200 d=50ms" --max-time 2 ;; # the client disconnects
	7) post "status code=500" ;;
	9) post closebefore ;;
	esac
}

# run_load has five parts in turn: a wave, a burst, trouble at the upstream, its
# outage, and another wave.
run_load() {
	local n t=0 at wave=(1 1 2 3 4 5 6 6 5 4 3 2) from=$SECONDS
	trap 'kill $(jobs -p) 2>/dev/null; wait; exit 0' TERM
	for ((n = 0; t < load; n++)); do
		t=$((SECONDS - from))
		at=$((100 * t / load)) # percent
		ordinary "${wave[t / 4 % ${#wave[@]}]}"
		refused "$n"
		faults "$n"
		[ "$at" -lt 28 ] || [ "$at" -gt 31 ] || ordinary 30
		[ "$at" -lt 45 ] || [ "$at" -gt 55 ] || { post "status code=503"; post "status code=503"; post "reset n=4"; post garbage; }
		[ "$at" -lt 70 ] || [ "$at" -gt 75 ] || touch "$tmp/outage"
		[ "$at" -lt 76 ] || rm -f "$tmp/outage"
		sleep 1
	done
	wait
}

# outage stops the upstream at a certain point of the load, and starts it again.
outage() {
	within "$load" test -e "$tmp/outage"
	kill -KILL "$standin"
	wait "$standin" 2>/dev/null || true
	standin=''
	within "$load" test ! -e "$tmp/outage"
	start_upstream
}

# --- queries -----------------------------------------------------------------

# ask EXPRESSION prints its one present value, or nothing.
ask() { promtool query instant "$server" "$1" | sed -n 's/.*=> \([^ ]*\) @.*/\1/p'; }

# show WHAT EXPRESSION prints all of its series.
show() {
	printf '   %s:\n' "$1"
	promtool query instant "$server" "$2" | sed -e 's/ @\[.*//' -e 's/^/      /'
}

# dashboard queries each of the Grafana dashboard's expressions over the whole
# run, with the variables replaced as in Grafana. All must be well-formed and
# have data.
# shellcheck disable=SC2016 # the variables are the dashboard's
dashboard() {
	local expr from=$1 n=0 none=0
	while IFS= read -r expr; do
		expr=$(sed -e 's/\\"/"/g' -e 's/\$job/responses-api-proxy/g' -e 's/\$instance/.*/g' \
			-e 's/\$__rate_interval/10s/g' -e 's/\$__range/5m/g' <<<"$expr")
		n=$((n + 1))
		promtool query range --start="$from" --end="$(date +%s)" --step=5s "$server" "$expr" >"$tmp/answer" || die "the dashboard's $expr"
		grep -q ' @\[' "$tmp/answer" || { none=$((none + 1)); echo "   no data: $expr"; }
	done < <(sed -n 's/^ *"expr": "\(.*\)",\{0,1\}$/\1/p' contrib/grafana/dashboard.json)
	is "the dashboard's expressions" "$n > 20"
	is "of them without data" "$none == 0"
}

# take writes the console's picture of the last seconds.
take() {
	local hash
	hash="%7B%22duration%22%3A$1%2C%22endTime%22%3A0%7D"
	HOME=$tmp timeout --kill-after=5 20 chromium --headless --no-sandbox --disable-gpu --disable-lcd-text --hide-scrollbars --user-data-dir="$tmp/chromium" \
		--window-size=1200,1180 --virtual-time-budget=15000 --screenshot="$tmp/picture.png" \
		"$server/consoles/responses-api-proxy.html?range=10s#pctc$hash" >"$tmp/chromium.log" 2>&1 || die "no picture"
	mkdir -p "$(dirname "$picture")"
	cp "$tmp/picture.png" "$picture"
	echo "   $picture: $(wc -c <"$picture") bytes"
}

start_upstream
start_proxy
start_prometheus
say "the proxy at $base, its metrics at $metrics, Prometheus $(prometheus --version 2>&1 | sed -n '1s/.*version \([^ ]*\).*/\1/p') at $server"
sed 's/^/   /' "$tmp/proxy.log"

say "load for $load s"
began=$(date +%s)
run_load >/dev/null 2>&1 &
loading=$!
jobs+=("$loading")
outage
near_end() { [ $(($(date +%s) - began)) -ge $((load - 4)) ]; }
within "$load" near_end
[ -z "$picture" ] || take $((load - 4))
wait "$loading"
idle() { [ "$(ask 'responses_api_proxy_requests_in_flight + responses_api_proxy_client_connections')" = 0 ]; }
within 30 idle || die "requests are in flight 30 s after the load"

say "promtool check metrics"
curl --silent --show-error --fail --output "$tmp/scrape" "http://$metrics/metrics"
promtool check metrics <"$tmp/scrape" >"$tmp/check" 2>&1 || { cat "$tmp/check"; die "promtool complains"; }
is "what it complains of, in bytes" "$(wc -c <"$tmp/check") == 0"
! grep -q "$key" "$tmp/scrape" "$tmp"/*.log "$tmp/audit.jsonl" || die "the key was told"

say "what Prometheus saw"
seconds=$(($(date +%s) - began))
is "up, all the time" "$(ask "min_over_time(up[${seconds}s])") == 1"
is "scrapes that it kept" "$(ask "count_over_time(up[${seconds}s])") > 0.8 * $seconds"
requests=$(ask 'sum(responses_api_proxy_requests_total)')
audited=$(awk -F'"suppressed":' 'NF > 1 { n += $2; next } { n++ } END { print n + 0 }' "$tmp/audit.jsonl")
is "requests, and records of the audit log" "$requests == $audited"
is "lines of it lost" "$(ask responses_api_proxy_audit_lost_lines_total) == 0"
over="[${seconds}s]"
is "requests per second" "$(ask "sum(rate(responses_api_proxy_requests_total$over))") > 1"
is "tokens per second" "$(ask "sum(rate(responses_api_proxy_tokens_total$over))") > 1"
is "most in flight" "$(ask "max_over_time(responses_api_proxy_requests_in_flight$over)") > 5"
for code in route_not_allowed browser_not_allowed host_not_allowed body_too_large too_many_requests \
	upstream_unreachable upstream_closed upstream_malformed client_left $([ "$(id -u)" != 0 ] || echo user_not_allowed); do
	is "$code" "$(ask "responses_api_proxy_refusals_total{code=\"$code\"}") > 0"
done
is "faults of the proxy" "$(ask 'responses_api_proxy_refusals_total{code="internal_error"}') == 0"
is "codes that it does not know" "$(ask 'responses_api_proxy_refusals_total{code="other"}') == 0"
show "requests" 'sum by (route, class) (responses_api_proxy_requests_total) > 0'
show "refusals and failures" 'sum by (code) (responses_api_proxy_refusals_total) > 0'
show "upstream" 'sum by (connection) (responses_api_proxy_upstream_requests_total)'
show "dials" 'sum by (result) (responses_api_proxy_upstream_dials_total)'
show "duration, p50 and p95" "label_replace(histogram_quantile(0.5, sum by (le) (rate(responses_api_proxy_request_duration_seconds_bucket$over))), \"q\", \"0.5\", \"\", \"\") or label_replace(histogram_quantile(0.95, sum by (le) (rate(responses_api_proxy_request_duration_seconds_bucket$over))), \"q\", \"0.95\", \"\", \"\")"
show "a scrape's duration in seconds, mean and most" "label_replace(avg_over_time(scrape_duration_seconds$over), \"of\", \"mean\", \"\", \"\") or label_replace(max_over_time(scrape_duration_seconds$over), \"of\", \"most\", \"\", \"\")"
show "its samples" 'scrape_samples_scraped'
echo "   its size: $(wc -c <"$tmp/scrape") bytes"
show "processor time, seconds in all" process_cpu_seconds_total
show "alerts, pending or firing" 'count(ALERTS) or vector(0)'

say "the dashboard's expressions"
dashboard "$began"

say "all as it should be: $requests requests"
