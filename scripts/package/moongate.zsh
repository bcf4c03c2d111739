#compdef moongate

local -a verbs
verbs=(check sim status generations reload rollback promote upgrade peers log-level drain stop)
if [[ $words[2] == sim ]]; then
    _arguments \
        '--upstream[which upstream]:name:' \
        '*--balance[which balancers]:names:' \
        '--scenario[a file of options and servers]:path:_files' \
        '--requests[how many]:number:' \
        '--seconds[for how long]:seconds:' \
        '--rate[requests a second]:number:' \
        '--load[share of what all servers can do]:share:' \
        '--arrivals[how requests come]:kind:(poisson constant bursts ramp)' \
        '--replay[the requests of an access log]:path:_files' \
        '--speed[the log so many times as fast]:number:' \
        '--clients[addresses that requests come from]:number:' \
        '--paths[paths that they ask for]:number:' \
        '--skew[how uneven clients and paths are]:exponent:' \
        '*--header[a field of each request]:text:' \
        '--policies[by the routes and policies of the script]' \
        '--service[how long a request takes]:law:' \
        '--capacity[requests that a server works at at once]:number:' \
        '--queue[requests that may wait there]:number:' \
        '--delay[to a server and back]:time:' \
        '--far-delay[to a server of another zone and back]:time:' \
        '--zones[where the gateways are]:names:' \
        '*--slow[a server is slower]:peer and factor:' \
        '*--fail[a server fails]:peer and share:' \
        '*--kill[a server refuses]:peer and times:' \
        '*--freeze[a server answers nothing]:peer and times:' \
        '*--unreachable[a server is out of reach]:peer and times:' \
        '--noticed[a health check finds an outage after]:time:' \
        '--workers[gateways]:number:' \
        '--view[do they know of each other]:kind:(shared own)' \
        '--warm-up[what comes before is not counted]:time:' \
        '--seed[of all chance]:number:' \
        '--html[a page with charts]:path:_files' \
        '--json[the figures as one line of JSON]' \
        '--help[print the usage]' \
        '1: :(sim)' \
        '2:script:_files -g "*.lua"'
    return
fi
if [[ $words[2] == peers && $CURRENT -eq 3 ]]; then
    compadd add remove drain undrain weight reset
    return
fi
if [[ $words[2] == log-level && $CURRENT -eq 3 ]]; then
    compadd debug info warn error none default
    return
fi
_arguments \
    '--workers[worker processes]:number:' \
    '--control[the control socket]:path:_files' \
    '--log[what is logged]:level:(debug info warn error none)' \
    '--error-log[the file of the error log]:path:_files' \
    '--shared[room for what workers share]:size:' \
    '--watch[reload when files change]' \
    '--canary[reload: try it out with a share]:share:' \
    '--by[canary: a share of the clients by a key]:key:(client cookie\: header\:)' \
    '--json[the answer as one line of JSON]' \
    '--help[print the usage]' \
    '--version[print the version]' \
    '1: : _alternative "verbs:verb:($verbs)" "scripts:script:_files -g \"*.lua\""' \
    '2:script:_files -g "*.lua"'
