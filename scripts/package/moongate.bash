# bash completion for moongate

_moongate_sim()
{
    local word=$1

    case $2 in
    --scenario|--replay|--html) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$word") ;;
    --balance) mapfile -t COMPREPLY < <(compgen -W 'all script round_robin least_conn random p2c ewma maglev ring
        rendezvous source_hash slow_start sticky tiers' -- "$word") ;;
    --arrivals) mapfile -t COMPREPLY < <(compgen -W 'poisson constant bursts ramp' -- "$word") ;;
    --service) mapfile -t COMPREPLY < <(compgen -W 'constant exponential lognormal pareto bimodal file recorded' -- "$word") ;;
    --view) mapfile -t COMPREPLY < <(compgen -W 'shared own' -- "$word") ;;
    --json|--policies|--help|[!-]*)
        if [[ $word == -* ]]; then
            mapfile -t COMPREPLY < <(compgen -W '--upstream --balance --scenario --requests --seconds --rate --load
                --arrivals --replay --speed --clients --paths --skew --header --policies --service --capacity --queue --delay
                --far-delay --zones --slow --fail --kill --freeze --unreachable --noticed --workers --view --warm-up
                --seed --html --json --help' -- "$word")
        else
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -f -- "$word")
        fi ;;
    esac
}

_moongate()
{
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}

    COMPREPLY=()
    if [[ ${COMP_WORDS[1]} == sim && $COMP_CWORD -gt 1 ]]; then
        _moongate_sim "$word" "$before"
        return
    fi
    case $before in
    --log) mapfile -t COMPREPLY < <(compgen -W 'debug info warn error none' -- "$word") ;;
    peers) mapfile -t COMPREPLY < <(compgen -W 'add remove drain undrain weight reset' -- "$word") ;;
    log-level) mapfile -t COMPREPLY < <(compgen -W 'debug info warn error none default' -- "$word") ;;
    --workers|--shared|--canary) ;;
    --by) mapfile -t COMPREPLY < <(compgen -W 'client cookie: header:' -- "$word") ;;
    --control|--error-log) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$word") ;;
    *)
        if [[ $word == -* ]]; then
            mapfile -t COMPREPLY < <(compgen -W '--workers --control --log --error-log --shared --watch --canary --by --json
                --help --version' -- "$word")
        else
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -W 'check sim status generations reload rollback promote upgrade peers log-level
                drain stop' -- "$word"; compgen -f -- "$word")
        fi ;;
    esac
}
complete -F _moongate moongate
