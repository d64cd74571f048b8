# shellcheck shell=bash
# fail ends the step with an error that GitHub shows beside it, escaped as its
# workflow commands require.
fail() { # text
	local text=${1//\%/%25}
	text=${text//$'\r'/%0D}
	printf '::error title=responses-api-proxy::%s\n' "${text//$'\n'/%0A}"
	exit 1
}
