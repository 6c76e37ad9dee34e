// Words of the plan screen.

export const en = {
  title: 'Plan',
};

export const zh = {
  title: '方案',
};
