package hostkey

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"testing"
	"time"
)

// host is one side of a test: a store with a key.
type host struct {
	store    *Store
	identity Identity
}

func newHost(t *testing.T) host {
	t.Helper()
	s := newStore(t)
	identity, err := s.Init()
	if err != nil {
		t.Fatal(err)
	}
	return host{s, identity}
}

func (h host) trusts(t *testing.T, name string, other host) {
	t.Helper()
	if err := h.store.Trust(name, other.identity.Public()); err != nil {
		t.Fatal(err)
	}
}

func (h host) server(t *testing.T) *tls.Config {
	t.Helper()
	c, err := ServerTLS(h.identity, h.store)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (h host) client(t *testing.T) *tls.Config {
	t.Helper()
	c, err := ClientTLS(h.identity, h.store)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// meeting is what both sides saw of one connection on which the server says "secret" once it knows the client.
type meeting struct {
	serverErr, clientErr error
	clientGot            []byte
	serverKey, clientKey PublicKey // as the server and the client saw the other
}

func meet(t *testing.T, server, client *tls.Config) meeting {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	var m meeting
	done := make(chan struct{})
	go func() {
		defer close(done)
		raw, err := listener.Accept()
		if err != nil {
			m.serverErr = err
			return
		}
		defer raw.Close()
		raw.SetDeadline(time.Now().Add(20 * time.Second))
		conn := tls.Server(raw, server)
		if m.serverErr = conn.Handshake(); m.serverErr != nil {
			return
		}
		m.serverKey, m.serverErr = KeyOf(conn)
		conn.Write([]byte("secret"))
		conn.Close()
	}()
	raw, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	raw.SetDeadline(time.Now().Add(20 * time.Second))
	conn := tls.Client(raw, client)
	if m.clientErr = conn.Handshake(); m.clientErr == nil {
		m.clientKey, _ = KeyOf(conn)
		m.clientGot, m.clientErr = io.ReadAll(conn)
	}
	raw.Close()
	<-done
	return m
}

func TestTrustedHostsMeet(t *testing.T) {
	a, b := newHost(t), newHost(t)
	a.trusts(t, "b", b)
	b.trusts(t, "a", a)
	m := meet(t, b.server(t), a.client(t))
	if m.serverErr != nil || m.clientErr != nil || string(m.clientGot) != "secret" {
		t.Fatalf("%+v", m)
	}
	if m.serverKey != a.identity.Public() || m.clientKey != b.identity.Public() {
		t.Fatal("a side saw another key than the peer's")
	}
}

func TestUntrustedClientLearnsNothing(t *testing.T) {
	a, b := newHost(t), newHost(t)
	a.trusts(t, "b", b)
	m := meet(t, b.server(t), a.client(t))
	if !errors.Is(m.serverErr, ErrUntrusted) {
		t.Fatalf("server: %v", m.serverErr)
	}
	if err := Explain(m.clientErr, a.identity.Public()); !errors.Is(err, ErrRefusedByPeer) {
		t.Fatalf("client: %v", err)
	}
	if len(m.clientGot) != 0 {
		t.Fatalf("client got %q", m.clientGot)
	}
}

func TestUntrustedServerGetsNothing(t *testing.T) {
	a, b := newHost(t), newHost(t)
	b.trusts(t, "a", a)
	m := meet(t, b.server(t), a.client(t))
	if !errors.Is(m.clientErr, ErrUntrusted) || m.serverErr == nil {
		t.Fatalf("%+v", m)
	}
	if errors.Is(m.serverErr, ErrUntrusted) {
		t.Fatal("the server, which trusts the client, blames it")
	}
}

func TestRemovedKeyIsRefusedWithoutRestart(t *testing.T) {
	a, b := newHost(t), newHost(t)
	a.trusts(t, "b", b)
	b.trusts(t, "a", a)
	server, client := b.server(t), a.client(t)
	client.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	if m := meet(t, server, client); m.serverErr != nil {
		t.Fatal(m.serverErr)
	}
	if err := b.store.Remove("a"); err != nil {
		t.Fatal(err)
	}
	if m := meet(t, server, client); !errors.Is(m.serverErr, ErrUntrusted) {
		t.Fatalf("after the removal: %v", m.serverErr)
	}
}

func TestPinnedPeerIsTheOnlyOne(t *testing.T) {
	a, b, c := newHost(t), newHost(t), newHost(t)
	b.trusts(t, "a", a)
	c.trusts(t, "a", a)
	client, err := ClientTLS(a.identity, Pinned{Name: "b", Key: b.identity.Public()})
	if err != nil {
		t.Fatal(err)
	}
	if m := meet(t, b.server(t), client); m.clientErr != nil {
		t.Fatal(m.clientErr)
	}
	if m := meet(t, c.server(t), client); !errors.Is(m.clientErr, ErrUntrusted) {
		t.Fatalf("another trusted host answers in place of b: %v", m.clientErr)
	}
}

// ecdsaCertificate is a certificate as other software has it.
func ecdsaCertificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestServerRefusesOtherClients(t *testing.T) {
	a, b := newHost(t), newHost(t)
	b.trusts(t, "a", a)
	stolen, err := selfSigned(a.identity)
	if err != nil {
		t.Fatal(err)
	}
	other, err := NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	stolen.PrivateKey = other.private // a's certificate without a's key
	twice, err := selfSigned(a.identity)
	if err != nil {
		t.Fatal(err)
	}
	twice.Certificate = append(twice.Certificate, twice.Certificate[0])
	for name, client := range map[string]*tls.Config{
		"no certificate":               {InsecureSkipVerify: true},
		"another kind of key":          {InsecureSkipVerify: true, Certificates: []tls.Certificate{ecdsaCertificate(t)}},
		"a trusted host's certificate": {InsecureSkipVerify: true, Certificates: []tls.Certificate{stolen}},
		"two certificates":             {InsecureSkipVerify: true, Certificates: []tls.Certificate{twice}},
		"TLS 1.2":                      {InsecureSkipVerify: true, Certificates: a.client(t).Certificates, MaxVersion: tls.VersionTLS12},
	} {
		t.Run(name, func(t *testing.T) {
			if m := meet(t, b.server(t), client); m.serverErr == nil || len(m.clientGot) != 0 {
				t.Fatalf("%+v", m)
			}
		})
	}
}

func TestCertificateNamesNobody(t *testing.T) {
	a := newHost(t)
	certificate, err := selfSigned(a.identity)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(certificate.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if parsed.Subject.String() != "" || len(parsed.DNSNames)+len(parsed.IPAddresses) != 0 {
		t.Fatalf("subject %q", parsed.Subject)
	}
}

func TestExplainLeavesOtherErrors(t *testing.T) {
	if err := Explain(io.EOF, PublicKey{}); err != io.EOF {
		t.Fatal(err)
	}
	if Explain(nil, PublicKey{}) != nil {
		t.Fatal("explained no error")
	}
}
