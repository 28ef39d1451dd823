package network

import (
	"fmt"
	"slices"
)

// Row is one property of an interface, as the sandbox had it and as the host has
// it now; empty where one has none.
type Row struct {
	Link    string `json:"link"`
	What    string `json:"what"`
	Sandbox string `json:"sandbox,omitempty"`
	Host    string `json:"host,omitempty"`
}

// What a Row is about.
const (
	rowMTU     = "mtu"
	rowMAC     = "hardware address"
	rowAddress = "address"
	rowRoute   = "route"
)

// SideBySide sets the sandbox's identity beside what Probe found on a host: of
// each interface its MTU, hardware address, addresses and routes.
func (id *Identity) SideBySide(host *Identity) []Row {
	var rows []Row
	for i := range id.Links {
		l := &id.Links[i]
		here := host.linkByName(l.hostName())
		rows = append(rows, linkRows(l.Name, id.facts(l), host.facts(here))...)
	}
	for i := range host.Links {
		if h := &host.Links[i]; id.linkByName(h.Name) == nil {
			rows = append(rows, linkRows(h.Name, nil, host.facts(h))...)
		}
	}
	return rows
}

// fact is a property with its value.
type fact struct{ what, value string }

// facts lists the properties of a link, nil for none.
func (id *Identity) facts(l *Link) []fact {
	if l == nil {
		return nil
	}
	facts := []fact{{rowMTU, fmt.Sprint(l.MTUBytes)}, {rowMAC, l.MAC}}
	for _, a := range l.Addresses {
		facts = append(facts, fact{rowAddress, a.String()})
	}
	for _, r := range id.routesOf(l.NIC) {
		facts = append(facts, fact{rowRoute, r.String()})
	}
	return facts
}

// linkRows joins the properties of two links: those that both have, and those that
// are single valued, share a row.
func linkRows(link string, sandbox, host []fact) []Row {
	var rows []Row
	host = slices.Clone(host)
	for _, s := range sandbox {
		row := Row{Link: link, What: s.what, Sandbox: s.value}
		single := s.what == rowMTU || s.what == rowMAC
		i := slices.IndexFunc(host, func(h fact) bool { return h.what == s.what && (single || h.value == s.value) })
		if i >= 0 {
			row.Host = host[i].value
			host = slices.Delete(host, i, i+1)
		}
		rows = append(rows, row)
	}
	for _, h := range host {
		rows = append(rows, Row{Link: link, What: h.what, Host: h.value})
	}
	return rows
}
