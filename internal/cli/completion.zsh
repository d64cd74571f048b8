#compdef responses-api-proxy codex-responses-api-proxy responses-api-proxy-verify
#
# zsh completion for responses-api-proxy, made by responses-api-proxy completion zsh.
#
# One line for each flag: its name, behind * if it may be repeated, its value,
# behind = if it may be omitted, or a dot, and what it means.

local serve_flags='@serve@'
local verify_flags='@verify@'
local health_flags='@health@'
local status_flags='@status@'
local flags=$serve_flags
local -a specs

if [[ $service == *-verify ]]; then
	flags=$verify_flags
elif (( CURRENT == 2 )); then
	specs=('1:command:(@commands@)')
else
	case $words[2] in
	verify | health | status)
		local table=${words[2]}_flags
		flags=${(P)table}
		words=("${(@)words[2,-1]}")
		(( CURRENT-- ))
		;;
	help) flags='' specs=('*:topic:(@topics@)') ;;
	completion) flags='' specs=('*:shell:(bash zsh fish)') ;;
	esac
fi

local name value text kind
while read -r name value text; do
	local -a actions=() choices=()
	local groups=
	for kind in ${(s:|:)${value#=}}; do
		case $kind in
		FILE | PATH | PROGRAM) actions+=(_files) ;;
		DIR) actions+=('_files -/') ;;
		USER) actions+=(_users) ;;
		@GROUP) groups=1 ;;
		PID) actions+=(_pids) ;;
		*[A-Z]*) ;; # cannot be listed
		*) choices+=($kind) ;;
		esac
	done
	(( $#choices )) && actions+=("compadd -- $choices")
	local action=' '
	(( $#actions )) && action="{ ${(j:; :)actions} }"
	[[ -n $groups ]] && action="{ if compset -P @; then _groups; else ${(j:; :)actions}; fi }"
	case $value in
	'') ;;
	.) specs+=("$name""[$text]") ;;
	'='*) specs+=("$name=-[$text]::${value#=}:$action") ;;
	*) specs+=("$name=[$text]:${value//:/\\:}:$action") ;;
	esac
done <<<$flags
_arguments -S $specs
