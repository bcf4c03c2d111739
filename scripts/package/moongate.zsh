#compdef moongate

local -a verbs
verbs=(check status reload rollback promote upgrade drain stop)
_arguments \
    '--workers[worker processes]:number:' \
    '--control[the control socket]:path:_files' \
    '--log[what is logged]:level:(debug info warn error none)' \
    '--error-log[the file of the error log]:path:_files' \
    '--shared[room for what workers share]:size:' \
    '--watch[reload when files change]' \
    '--json[the answer as one line of JSON]' \
    '--help[print the usage]' \
    '--version[print the version]' \
    '1: : _alternative "verbs:verb:($verbs)" "scripts:script:_files -g \"*.lua\""' \
    '2:script:_files -g "*.lua"'
