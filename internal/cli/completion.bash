# bash completion for responses-api-proxy, made by responses-api-proxy completion bash.
#
# One line for each flag: its name, behind * if it may be repeated, its value,
# behind = if it may be omitted, or a dot, and what it means.

_responses_api_proxy_serve='
@serve@
'
_responses_api_proxy_verify='
@verify@
'
_responses_api_proxy_health='
@health@
'
_responses_api_proxy_status='
@status@
'

# _responses_api_proxy_offer offers each line.
_responses_api_proxy_offer() {
	local line
	while IFS= read -r line; do COMPREPLY+=("$line"); done
}

# _responses_api_proxy_value offers the values of a flag that begin with what is
# typed. A placeholder that is not known cannot be listed.
_responses_api_proxy_value() { # value of the flag, what is typed
	local kind
	for kind in ${1//|/ }; do
		case $kind in
		FILE | PATH | PROGRAM)
			compopt -o filenames 2>/dev/null # not known to bash 3
			_responses_api_proxy_offer < <(compgen -f -- "$2")
			;;
		DIR)
			compopt -o filenames 2>/dev/null
			_responses_api_proxy_offer < <(compgen -d -- "$2")
			;;
		USER) _responses_api_proxy_offer < <(compgen -u -- "$2") ;;
		@GROUP) [[ $2 != @* ]] || _responses_api_proxy_offer < <(compgen -P @ -g -- "${2#@}") ;;
		*[A-Z]*) ;;
		*) _responses_api_proxy_offer < <(compgen -W "$kind" -- "$2") ;;
		esac
	done
}

_responses_api_proxy() {
	local typed=$2 before=${COMP_WORDS[COMP_CWORD - 1]} flags=$_responses_api_proxy_serve words='' name value rest
	# readline takes '=', '@' and '=@' for words of their own; what is typed then
	# begins with '@', and for sudo's completion with '='.
	local mark=${COMP_WORDS[COMP_CWORD]}
	case $before in
	= | @ | =@) mark=$before before=${COMP_WORDS[COMP_CWORD - 2]} ;;
	-[!-]*) before=-$before ;;
	esac
	typed=${typed#=}
	if [[ ${COMP_WORDS[0]} == *-verify ]]; then
		flags=$_responses_api_proxy_verify
	elif ((COMP_CWORD == 1)); then
		words='@commands@'
	else
		case ${COMP_WORDS[1]} in
		verify) flags=$_responses_api_proxy_verify ;;
		health) flags=$_responses_api_proxy_health ;;
		status) flags=$_responses_api_proxy_status ;;
		help) flags='' words='@topics@' ;;
		completion) flags='' words='bash zsh fish' ;;
		esac
	fi
	COMPREPLY=()
	while read -r name value rest; do
		words+=" ${name#\*}"
		if [[ ${name#\*} == "$before" && $value != [.] && ($value != =* || $mark == =*) ]]; then
			_responses_api_proxy_value "${value#=}" "$typed"
			return
		fi
	done <<<"$flags"
	_responses_api_proxy_offer < <(compgen -W "$words" -- "$typed")
}

complete -F _responses_api_proxy responses-api-proxy codex-responses-api-proxy responses-api-proxy-verify
