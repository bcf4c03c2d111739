# bash completion for moongate

_moongate()
{
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}

    COMPREPLY=()
    case $before in
    --log) mapfile -t COMPREPLY < <(compgen -W 'debug info warn error none' -- "$word") ;;
    --workers|--shared) ;;
    --control|--error-log) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$word") ;;
    *)
        if [[ $word == -* ]]; then
            mapfile -t COMPREPLY < <(compgen -W '--workers --control --log --error-log --shared --watch --json --help
                --version' -- "$word")
        else
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -W 'check status reload rollback promote upgrade drain stop' -- "$word"; compgen -f -- "$word")
        fi ;;
    esac
}
complete -F _moongate moongate
