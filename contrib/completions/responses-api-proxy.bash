# bash completion for responses-api-proxy and codex-responses-api-proxy.
#
# One line for each flag: its name, and what its value may be, which is words,
# FILE, DIR, USER, GROUP, or ANY for what cannot be listed. docs/help_test.go holds
# these lists to the usage texts.

_responses_api_proxy_serve='
--port ANY
--socket FILE
--server-info FILE
--http-shutdown
--upstream-url ANY
--insecure-upstream
--upstream-user USER|self
--upstream-tls 1.3|1.2
--ca-file FILE
--auth-header bearer|api-key|x-api-key
--key-fd ANY
--allow-route compact|input-tokens|models|retrieve|websocket|messages
--dump-dir DIR
--dump-max ANY
--secret-memory auto|require
--allow-user USER|self
--allow-group GROUP
--shutdown-user USER|self
--allow-host ANY
--github-oidc
--oidc-audience ANY
--identity-provider-id ANY
--service-account-id ANY
--github-oidc-request-url ANY
--oidc-allow-host ANY
--oidc-token-file FILE
--max-body ANY
--max-concurrent ANY
--max-concurrent-per-user ANY
--max-connections-per-user ANY
--rate ANY
--max-requests ANY
--expire-after ANY
--max-tokens-per-user ANY
--budget-file FILE
--user USER
--strict
--jail auto|off
--audit FILE|-
--metrics ANY
--log-file FILE
--drain-timeout ANY
--version
--help
'
_responses_api_proxy_verify='
--server-info FILE
--port ANY
--socket FILE
--pid ANY
--stand-in
--proxy FILE
--allow-route ANY
--key-stdin
--spend
--disruptive
--json
--help
'
_responses_api_proxy_health='
--ready
--help
'

# The words of one line are offered if they begin with what is typed.
_responses_api_proxy_offer() {
	local line
	while IFS= read -r line; do COMPREPLY+=("$line"); done
}

_responses_api_proxy_value() { # what it may be, what is typed
	local kind
	for kind in ${1//|/ }; do
		case $kind in
		ANY) ;;
		FILE)
			compopt -o filenames 2>/dev/null # not known to bash 3
			_responses_api_proxy_offer < <(compgen -f -- "$2")
			;;
		DIR)
			compopt -o filenames 2>/dev/null
			_responses_api_proxy_offer < <(compgen -d -- "$2")
			;;
		USER) _responses_api_proxy_offer < <(compgen -u -- "$2") ;;
		GROUP) _responses_api_proxy_offer < <(compgen -g -- "$2") ;;
		*) _responses_api_proxy_offer < <(compgen -W "$kind" -- "$2") ;;
		esac
	done
}

_responses_api_proxy() {
	local typed=$2 before=${COMP_WORDS[COMP_CWORD - 1]} flags=$_responses_api_proxy_serve words='' name kind
	# readline takes --flag=value for three words, and sudo's completion passes
	# the '=' for what is typed.
	case $before in
	=) before=${COMP_WORDS[COMP_CWORD - 2]} ;;
	-[!-]*) before=-$before ;;
	esac
	[[ $typed != = ]] || typed=
	if [[ ${COMP_WORDS[0]} == *-verify ]]; then
		flags=$_responses_api_proxy_verify
	elif ((COMP_CWORD == 1)); then
		words='verify health'
	else
		case ${COMP_WORDS[1]} in
		verify) flags=$_responses_api_proxy_verify ;;
		health) flags=$_responses_api_proxy_health ;;
		esac
	fi
	COMPREPLY=()
	while read -r name kind; do
		words+=" $name"
		if [[ -n $kind && $name == "$before" ]]; then
			_responses_api_proxy_value "$kind" "$typed"
			return
		fi
	done <<<"$flags"
	_responses_api_proxy_offer < <(compgen -W "$words" -- "$typed")
}

complete -F _responses_api_proxy responses-api-proxy codex-responses-api-proxy responses-api-proxy-verify
