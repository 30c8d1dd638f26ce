// Verifies an archive of Bulla with the Go project's own transparency-log packages, which know
// nothing of Bulla: the checkpoint's signature, the root over every entry, and each entry's proof
// from tiles. Prints the size, or what does not hold.
package main

import (
	"encoding/binary"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func fail(format string, args ...interface{}) {
	fmt.Printf(format+"\n", args...)
	os.Exit(1)
}

// The path of tlog-tiles for a tile of height 8.
func path(t tlog.Tile) string {
	n, groups := t.N, []string{}
	for i := 0; i == 0 || n > 0; i++ {
		group := fmt.Sprintf("%03d", n%1000)
		if i > 0 {
			group = "x" + group
		}
		groups = append([]string{group}, groups...)
		n /= 1000
	}
	level := strconv.Itoa(t.L)
	if t.L < 0 {
		level = "entries"
	}
	name := "tile/" + level + "/" + strings.Join(groups, "/")
	if t.W < 256 {
		name += ".p/" + strconv.Itoa(t.W)
	}
	return name
}

type archive string

func (a archive) Height() int { return 8 }

func (a archive) SaveTiles([]tlog.Tile, [][]byte) {}

func (a archive) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var all [][]byte
	for _, t := range tiles {
		data, err := os.ReadFile(filepath.Join(string(a), path(t)))
		if err != nil {
			return nil, err
		}
		all = append(all, data)
	}
	return all, nil
}

func main() {
	dir, keyFile := archive(os.Args[1]), os.Args[2]
	key, err := os.ReadFile(keyFile)
	if err != nil {
		fail("%v", err)
	}
	verifier, err := note.NewVerifier(strings.TrimSpace(string(key)))
	if err != nil {
		fail("key: %v", err)
	}
	signed, err := os.ReadFile(filepath.Join(string(dir), "checkpoint"))
	if err != nil {
		fail("%v", err)
	}
	opened, err := note.Open(signed, note.VerifierList(verifier))
	if err != nil {
		fail("checkpoint: %v", err)
	}
	lines := strings.Split(opened.Text, "\n")
	if lines[0] != verifier.Name() {
		fail("checkpoint: origin %q", lines[0])
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		fail("checkpoint: %v", err)
	}
	raw, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(raw) != 32 {
		fail("checkpoint: root")
	}
	var root tlog.Hash
	copy(root[:], raw)
	tree := tlog.Tree{N: size, Hash: root}

	// Every entry, from the bundles: the root over them.
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		var out []tlog.Hash
		for _, i := range indexes {
			out = append(out, stored[i])
		}
		return out, nil
	})
	tiles := tlog.TileHashReader(tree, dir)
	for first := int64(0); first < size; first += 256 {
		width := size - first
		if width > 256 {
			width = 256
		}
		bundle, err := os.ReadFile(filepath.Join(string(dir), path(tlog.Tile{H: 8, L: -1, N: first / 256, W: int(width)})))
		if err != nil {
			fail("%v", err)
		}
		for i := first; i < first+width; i++ {
			if len(bundle) < 2 {
				fail("entry %d is cut off", i)
			}
			end := 2 + int(binary.BigEndian.Uint16(bundle))
			if len(bundle) < end {
				fail("entry %d is cut off", i)
			}
			entry := bundle[2:end]
			bundle = bundle[end:]
			hashes, err := tlog.StoredHashes(i, entry, reader)
			if err != nil {
				fail("entry %d: %v", i, err)
			}
			stored = append(stored, hashes...)
			proof, err := tlog.ProveRecord(size, i, tiles)
			if err != nil {
				fail("proof of entry %d: %v", i, err)
			}
			if err := tlog.CheckRecord(proof, size, root, i, tlog.RecordHash(entry)); err != nil {
				fail("entry %d: %v", i, err)
			}
		}
		if len(bundle) != 0 {
			fail("bytes behind the last entry of a bundle")
		}
	}
	computed, err := tlog.TreeHash(size, reader)
	if err != nil || computed != root {
		fail("root: %v", err)
	}
	fmt.Printf("good: %d entries\n", size)
}
