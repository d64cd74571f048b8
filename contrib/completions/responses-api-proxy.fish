# fish completion for responses-api-proxy and codex-responses-api-proxy.
#
# One line for each flag. docs/help_test.go holds them to the usage texts.

function __responses_api_proxy_in --description 'tell whether the line has this subcommand; serve is none'
    set -l words (commandline -opc)
    switch "$words[2]"
        case verify health
            test $argv[1] = $words[2]
        case '*'
            test $argv[1] = serve
    end
end

set -l command complete -c responses-api-proxy
set -l serve $command -n '__responses_api_proxy_in serve'
set -l verify $command -n '__responses_api_proxy_in verify'
set -l health $command -n '__responses_api_proxy_in health'

complete -c codex-responses-api-proxy -w responses-api-proxy
complete -c responses-api-proxy-verify -w 'responses-api-proxy verify'
$command -f
$command -n 'test (count (commandline -opc)) = 1' -a verify -d 'try what a thief would'
$command -n 'test (count (commandline -opc)) = 1' -a health -d 'ask whether the proxy serves'

$serve -l port -x -d 'port of 127.0.0.1 to listen on'
$serve -l socket -r -F -d 'listen on a unix stream socket, too or instead'
$serve -l server-info -r -F -d 'write port and pid there once listening'
$serve -l http-shutdown -d 'let GET /shutdown stop the proxy'
$serve -l upstream-url -x -d 'where requests go'
$serve -l insecure-upstream -d 'allow plain http to an upstream on another host'
$serve -l upstream-user -x -a 'self (__fish_complete_users)' -d 'who may be the upstream on this host over plain http'
$serve -l upstream-tls -x -a '1.3 1.2' -d 'TLS version towards the upstream'
$serve -l ca-file -r -F -d 'trust the certificate authorities there, and no others'
$serve -l auth-header -x -a 'bearer api-key x-api-key' -d 'header field in which the key goes out'
$serve -l key-fd -x -d 'on SIGHUP, read a new key from there'
$serve -l allow-route -x -a 'compact input-tokens models retrieve websocket messages' -d 'open a route besides'
$serve -l dump-dir -x -a '(__fish_complete_directories)' -d 'write requests and answers there'
$serve -l dump-max -x -d 'how much may lie there'
$serve -l secret-memory -x -a 'auto require' -d 'where there is no secret memory'
$serve -l allow-user -x -a 'self (__fish_complete_users)' -d 'a user who may call'
$serve -l allow-group -x -a '(__fish_complete_groups)' -d 'a group whose members may call'
$serve -l shutdown-user -x -a 'self (__fish_complete_users)' -d 'who of them may GET /shutdown'
$serve -l allow-host -x -d 'a further name of this host'
$serve -l github-oidc -d "exchange GitHub's identity for a key"
$serve -l oidc-audience -x -d 'for whom GitHub is to make the identity'
$serve -l identity-provider-id -x -d 'the issuer, as OpenAI calls it'
$serve -l service-account-id -x -d 'the account, as OpenAI calls it'
$serve -l github-oidc-request-url -x -d 'where GitHub is asked'
$serve -l oidc-allow-host -x -d 'a host besides'
$serve -l oidc-token-file -r -F -d 'exchange the identity in a file for a key'
$serve -l max-body -x -d 'size of a request'
$serve -l max-concurrent -x -d 'requests that run at once'
$serve -l max-concurrent-per-user -x -d 'requests of each user that run at once'
$serve -l max-connections-per-user -x -d 'open connections of each user'
$serve -l rate -x -d 'requests a second that each user may begin'
$serve -l max-requests -x -d 'serve so many requests, and end'
$serve -l expire-after -x -d 'serve for so long, and end'
$serve -l max-tokens-per-user -x -d 'input and output tokens of each user'
$serve -l budget-file -r -F -d 'keep the sums of tokens there'
$serve -l user -x -a '(__fish_complete_users)' -d 'when started as root, become that user'
$serve -l strict -d 'do not start unless every protection is in force'
$serve -l jail -x -a 'auto off' -d 'Landlock and seccomp'
$serve -l audit -r -F -a - -d 'one line of JSON for each request; - is standard output'
$serve -l metrics -x -d 'for Prometheus: loopback address with port, or unix:PATH'
$serve -l log-file -r -F -d 'messages, in place of standard error'
$serve -l drain-timeout -x -d 'how long running requests may go on after a stop'
$serve -l version -d 'print the version'
$serve -l help -d 'print the flags'

$verify -l server-info -r -F -d "take port and pid from the proxy's --server-info"
$verify -l port -x -d "the proxy's port of 127.0.0.1"
$verify -l socket -r -F -d "the proxy's unix socket"
$verify -l pid -x -a '(__fish_complete_pids)' -d "the proxy's process"
$verify -l stand-in -d 'start a proxy with a made-up key and upstream'
$verify -l proxy -r -F -d 'the program to start'
$verify -l allow-route -x -d 'a route that was to be open'
$verify -l key-stdin -d 'read the key to look for from standard input'
$verify -l spend -d 'also send one well-formed request'
$verify -l disruptive -d 'also try to stop and to crash the proxy'
$verify -l json -d 'print one JSON document'
$verify -l help -d 'print the flags'

$health -l ready -d 'ask whether it takes new requests'
$health -l help -d 'print how it is called'
