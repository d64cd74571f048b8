#!/usr/bin/env bash
# Stops the proxy of DIRECTORY, and writes a summary of its audit log.
set -euo pipefail

info=$DIRECTORY/server-info.json

# running reports whether the proxy runs: it removes its server-info when it ends.
running() { [ -s "$info" ] && kill -0 "$pid" 2>/dev/null; }

# end sends a signal, and waits until the proxy has ended, for 15 seconds.
end() { # signal
	kill -s "$1" "$pid" 2>/dev/null || true
	for _ in {1..150}; do
		running || return 0
		sleep 0.1
	done
}

# summary counts the lines of the audit log. A quotation mark in a text is always behind a backslash there, so that
# no text can contain ,"name": and pass for a member.
summary() {
	awk '
	function number(name, prefix) {
		prefix = ",\"" name "\":"
		return match($0, prefix "[0-9]+") ? substr($0, RSTART + length(prefix), RLENGTH - length(prefix)) + 0 : 0
	}
	function text(name, prefix, value) {
		prefix = ",\"" name "\":\""
		if (!match($0, prefix "[^\"]*")) return ""
		value = substr($0, RSTART + length(prefix), RLENGTH - length(prefix))
		gsub(/[^A-Za-z0-9._:\/-]/, "?", value) # it is to be Markdown
		return value
	}
	{
		n = 1; code = text("code"); model = text("model")
		if (number("suppressed")) { n = number("suppressed"); code = "suppressed" }
		if (code != "") { failed += n; codes[code] += n }
		requests += n; input += number("input_tokens"); output += number("output_tokens")
		if (model != "") { models[model]++; in_[model] += number("input_tokens"); out[model] += number("output_tokens") }
	}
	END {
		print "### responses-api-proxy\n"
		print "| requests | refused or failed | input tokens | output tokens |\n|---|---|---|---|"
		printf "| %d | %d | %d | %d |\n", requests, failed, input, output
		for (m in models) {
			if (!head++) print "\n| model | requests | input tokens | output tokens |\n|---|---|---|---|"
			printf "| %s | %d | %d | %d |\n", m, models[m], in_[m], out[m]
		}
		head = 0
		for (c in codes) {
			if (!head++) print "\n| refused or failed with | requests |\n|---|---|"
			printf "| %s | %d |\n", c, codes[c]
		}
	}' "$DIRECTORY/audit.jsonl"
}

if [ -z "$DIRECTORY" ] || [ ! -e "$DIRECTORY/audit.jsonl" ]; then
	echo "no proxy was started"
	exit 0
fi
pid=$(sed 's/.*"pid":\([0-9]*\).*/\1/' "$info" 2>/dev/null || true)
for signal in TERM TERM KILL; do # the second one aborts requests that still run
	! running || end $signal
done
rm -f "$info"
link=$(cat "$DIRECTORY/link" 2>/dev/null || true)
if [ -n "$link" ] && [ "$(readlink "$link")" = "$info" ]; then # unless a later proxy has replaced it
	rm "$link"
fi
# What others have chosen in the log must not pass for a workflow command.
token=${RANDOM}${RANDOM}${RANDOM}${RANDOM}
printf '::group::log of responses-api-proxy\n::stop-commands::%s\n' "$token"
cat "$DIRECTORY/proxy.log"
printf '::%s::\n::endgroup::\n' "$token"
summary >"$DIRECTORY/summary.md"
cat "$DIRECTORY/summary.md"
cat "$DIRECTORY/summary.md" >>"${GITHUB_STEP_SUMMARY:?}"
