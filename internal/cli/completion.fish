# fish completion for responses-api-proxy, made by responses-api-proxy completion fish.

function __responses_api_proxy_in --description 'report whether the line has this subcommand; serve is none'
    set -l words (commandline -opc)
    switch "$words[2]"
        case verify health status help completion
            test $argv[1] = $words[2]
        case '*'
            test $argv[1] = serve
    end
end

# Arguments are a subcommand and a line for each of its flags: its name, behind
# * if it may be repeated, its value, behind = if it may be omitted, or a dot,
# and what it means.
function __responses_api_proxy_add --argument-names subcommand lines
    for line in (string split \n -- $lines)
        set -l flag (string split -m 2 ' ' -- $line)
        set -l kind -x
        set -l choices
        string match -q '=*' -- $flag[2]; and set kind -f
        for value in (string split '|' -- (string trim -l -c = -- $flag[2]))
            switch $value
                case .
                    set kind
                case FILE PATH PROGRAM
                    set kind -r -F
                case DIR
                    set -a choices '(__fish_complete_directories)'
                case USER
                    set -a choices '(__fish_complete_users)'
                case @GROUP
                    set -a choices '(__fish_complete_groups | string replace -r "^" @)'
                case PID
                    set -a choices '(__fish_complete_pids)'
                case '*'
                    string match -qr '[A-Z]' -- $value; or set -a choices $value
            end
        end
        set -q choices[1]; and set -a kind -a "$choices"
        complete -c responses-api-proxy -n "__responses_api_proxy_in $subcommand" -l (string trim -l -c '*-' -- $flag[1]) $kind -d $flag[3]
    end
end

complete -c codex-responses-api-proxy -w responses-api-proxy
complete -c responses-api-proxy-verify -w 'responses-api-proxy verify'
complete -c responses-api-proxy -f
complete -c responses-api-proxy -n 'test (count (commandline -opc)) = 1' -a '@commands@'
complete -c responses-api-proxy -n '__responses_api_proxy_in help' -a '@topics@'
complete -c responses-api-proxy -n '__responses_api_proxy_in completion' -a 'bash zsh fish'
__responses_api_proxy_add serve '@serve@'
__responses_api_proxy_add verify '@verify@'
__responses_api_proxy_add health '@health@'
__responses_api_proxy_add status '@status@'
