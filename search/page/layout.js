"use strict";
/* Where the items of a tree stand: a tidy tree in linear time, after Buchheim, Juenger and Leipert,
"Improving Walker's algorithm to run in linear time" (2002), without recursion.

children(i)  the shown children of item i, in order
order        the shown items, parents before their children
size         number of all items

Returns a Float64Array [size]: the place of each shown item across the tree; places of neighbours at
one depth are at least 1 apart, and a parent stands in the middle of its children. */
function tidy(order, children, parent, size) {
  const numbers = () => new Float64Array(size);
  const place = numbers(), modifier = numbers(), shift = numbers(), change = numbers();
  const middle = numbers(); // of the children, before the item itself is placed
  const thread = new Int32Array(size).fill(-1);
  const ancestor = Int32Array.from({ length: size }, (_, i) => i);
  const number = new Int32Array(size); // among its siblings

  const leftOf = (i) => (children(i).length ? children(i)[0] : thread[i]);
  const rightOf = (i) => (children(i).length ? children(i).at(-1) : thread[i]);

  // move `item` away from its left siblings; returns the default ancestor
  function apart(item, left, first, standard) {
    let innerRight = item, outerRight = item, innerLeft = left, outerLeft = first;
    let sumInnerRight = modifier[item], sumOuterRight = modifier[item];
    let sumInnerLeft = modifier[left], sumOuterLeft = modifier[first];
    let right = rightOf(innerLeft), next = leftOf(innerRight);
    while (right >= 0 && next >= 0) {
      innerLeft = right;
      innerRight = next;
      outerLeft = leftOf(outerLeft);
      outerRight = rightOf(outerRight);
      ancestor[outerRight] = item;
      const gap = place[innerLeft] + sumInnerLeft - place[innerRight] - sumInnerRight + 1;
      if (gap > 0) {
        const own = ancestor[innerLeft];
        const from = parent[own] === parent[item] ? own : standard;
        const each = gap / (number[item] - number[from]);
        change[item] -= each;
        shift[item] += gap;
        change[from] += each;
        place[item] += gap;
        modifier[item] += gap;
        sumInnerRight += gap;
        sumOuterRight += gap;
      }
      sumInnerLeft += modifier[innerLeft];
      sumInnerRight += modifier[innerRight];
      sumOuterLeft += modifier[outerLeft];
      sumOuterRight += modifier[outerRight];
      right = rightOf(innerLeft);
      next = leftOf(innerRight);
    }
    if (right >= 0 && rightOf(outerRight) < 0) {
      thread[outerRight] = right;
      modifier[outerRight] += sumInnerLeft - sumOuterRight;
    }
    if (next >= 0 && leftOf(outerLeft) < 0) {
      thread[outerLeft] = next;
      modifier[outerLeft] += sumInnerRight - sumOuterLeft;
      return item;
    }
    return standard;
  }

  for (let n = order.length - 1; n >= 0; n--) { // all below an item is done before it
    const item = order[n], below = children(item);
    if (!below.length) continue;
    let standard = below[0];
    below.forEach((child, i) => {
      number[child] = i;
      const inner = children(child).length > 0;
      place[child] = i ? place[below[i - 1]] + 1 : middle[child];
      if (i && inner) modifier[child] = place[child] - middle[child];
      if (i) standard = apart(child, below[i - 1], below[0], standard);
    });
    let moved = 0, steps = 0;
    for (let i = below.length - 1; i >= 0; i--) {
      const child = below[i];
      place[child] += moved;
      modifier[child] += moved;
      steps += change[child];
      moved += shift[child] + steps;
    }
    middle[item] = (place[below[0]] + place[below.at(-1)]) / 2;
  }
  place[order[0]] = middle[order[0]];
  const moved = numbers();
  for (const item of order.slice(1)) {
    const above = parent[item];
    moved[item] = moved[above] + modifier[above];
    place[item] += moved[item];
  }
  return place;
}
